// Maglev forwarding in C on DPDK, as lean as it can be: for datagrams and segments to one VIP, with the hash, the lookup table, the kind of connection table and the rewriting that
// services/maglev has. What it leaves out is what that does beside: checks of headers and checksums, ARP, ICMP, VLAN, drain, phases of connections, drops by reason.

#include <rte_config.h>
// Debian's was built with libbsd, whose headers nothing here needs.
#undef RTE_USE_LIBBSD

#include <stdlib.h>
#include <string.h>

#include <rte_byteorder.h>
#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_prefetch.h>

#define BATCH 32
#define PATIENCE 1000000
// Ticks of 2^26 cycles; a silent connection is forgotten after this many.
#define TICK_SHIFT 26
#define LIFETIME 4096

struct entry {
    uint32_t source;
    uint32_t ports;
    uint16_t used;
    uint16_t backend;
    uint32_t expiry;
};

struct bucket {
    struct entry entries[4];
} __attribute__((aligned(64)));

struct traffic {
    uint64_t packets, bytes;
};

static struct bucket *buckets;
static uint64_t mask;
static const uint16_t *table;
static uint32_t table_size;
static struct rte_ether_addr own, backends[256];
static struct traffic of_vip, of_backend[256];
static uint32_t vip;

static inline uint64_t word(const void *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

// XXH3 of 16 bytes with its default secret and seed 0 (xxHash, "XXH3_len_9to16_64b").
static inline uint64_t hash_of(uint64_t low, uint64_t high) {
    low ^= 0x1f67b3b7a4a44072 ^ 0x78e5c0cc4ee679cb;
    high ^= 0x2172ffcc7dd05a82 ^ 0x8e2443f7744608b8;
    __uint128_t product = (__uint128_t)low * high;
    uint64_t hash = 16 + __builtin_bswap64(low) + high + ((uint64_t)product ^ (uint64_t)(product >> 64));
    hash = (hash ^ hash >> 37) * 0x165667919e3779f9;
    return hash ^ hash >> 32;
}

uint64_t maglev_hash(const void *bytes) { return hash_of(word(bytes), word((const char *)bytes + 8)); }

// Room for `capacity` connections, a power of two; `slots` is the lookup table, and stays.
int maglev_start(size_t capacity, const uint16_t *slots, uint32_t count, const uint8_t (*macs)[6], uint32_t members,
                 const uint8_t *mac, uint32_t address) {
    buckets = aligned_alloc(64, capacity / 4 * sizeof(struct bucket));
    if (!buckets || members > 256)
        return -1;
    memset(buckets, 0, capacity / 4 * sizeof(struct bucket));
    mask = capacity / 4 - 1;
    table = slots;
    table_size = count;
    memcpy(backends, macs, members * 6);
    memcpy(&own, mac, 6);
    vip = rte_cpu_to_be_32(address);
    return 0;
}

static inline struct bucket *first_of(uint64_t hash) { return &buckets[hash & mask]; }
static inline struct bucket *second_of(uint64_t hash) { return &buckets[(hash & mask) ^ ((hash >> 24 & mask) | 1)]; }

static inline struct entry *find(struct bucket *bucket, uint32_t source, uint32_t ports) {
    for (int i = 0; i < 4; i++)
        if (bucket->entries[i].source == source && bucket->entries[i].ports == ports && bucket->entries[i].used)
            return &bucket->entries[i];
    return NULL;
}

static struct entry *insert(uint64_t hash, uint32_t tick) {
    struct bucket *both[] = {first_of(hash), second_of(hash)};
    struct entry *best[2] = {NULL, NULL};
    int free[2] = {0, 0};
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < 4; i++) {
            struct entry *entry = &both[b]->entries[i];
            if (!entry->used || (int32_t)(entry->expiry - tick) <= 0) {
                free[b]++;
                best[b] = entry;
            }
        }
    // As ours: the first while it has a place to spare, then the emptier.
    return free[0] >= (free[1] < 2 ? free[1] : 2) ? best[0] : best[1];
}

static inline void direct(struct rte_ether_hdr *ether, uint64_t hash, uint32_t source, uint32_t ports,
                              uint32_t length, uint32_t tick) {
    struct entry *entry = find(first_of(hash), source, ports);
    if (!entry)
        entry = find(second_of(hash), source, ports);
    uint16_t backend;
    if (likely(entry && (int32_t)(entry->expiry - tick) > 0)) {
        backend = entry->backend;
        entry->expiry = tick + LIFETIME;
    } else {
        backend = table[(hash >> 32) * table_size >> 32];
        if (!entry)
            entry = insert(hash, tick);
        if (entry)
            *entry = (struct entry){source, ports, 1, backend, tick + LIFETIME};
    }
    ether->dst_addr = backends[backend];
    ether->src_addr = own;
    of_vip.packets++;
    of_vip.bytes += length;
    of_backend[backend].packets++;
    of_backend[backend].bytes += length;
}

// Forwards `packets` packets, and says how many cycles that took; 0 if it came to no end.
uint64_t maglev_forward(uint32_t packets, uint16_t batch) {
    struct rte_mbuf *mbufs[BATCH];
    uint64_t hashes[BATCH];
    uint32_t count = 0, vain = 0;
    uint64_t begun = rte_rdtsc();
    while (count < packets) {
        uint16_t got = rte_eth_rx_burst(0, 0, mbufs, batch);
        if (unlikely(got == 0)) {
            if (++vain > PATIENCE)
                return 0;
            continue;
        }
        uint32_t tick = rte_rdtsc() >> TICK_SHIFT;
        for (uint16_t i = 0; i < got; i++) {
            const struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod_offset(mbufs[i], const struct rte_ipv4_hdr *, 14);
            // Addresses, ports, protocol.
            uint64_t low = word(&ip->src_addr);
            uint64_t high = *(const uint32_t *)(ip + 1) | (uint64_t)ip->next_proto_id << 32;
            hashes[i] = hash_of(low, high);
            rte_prefetch0(first_of(hashes[i]));
        }
        uint16_t kept = 0;
        for (uint16_t i = 0; i < got; i++) {
            struct rte_ether_hdr *ether = rte_pktmbuf_mtod(mbufs[i], struct rte_ether_hdr *);
            const struct rte_ipv4_hdr *ip = (const struct rte_ipv4_hdr *)(ether + 1);
            if (unlikely(ether->ether_type != RTE_BE16(RTE_ETHER_TYPE_IPV4) || ip->version_ihl != 0x45 ||
                         ip->dst_addr != vip || (mbufs[i]->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_BAD))) {
                rte_pktmbuf_free(mbufs[i]);
                continue;
            }
            direct(ether, hashes[i], ip->src_addr, *(const uint32_t *)(ip + 1), mbufs[i]->pkt_len, tick);
            mbufs[kept++] = mbufs[i];
        }
        if (rte_eth_tx_burst(0, 0, mbufs, kept) != kept)
            return 0;
        count += got;
    }
    return count == packets ? rte_rdtsc() - begun : 0;
}
