// DPDK's own driver for the 82599, measured as ours is: what bench-net calls between two of the model's turns.
//
// It is built against Debian's DPDK and loaded into the process that the model lives in. The driver's descriptors and packets are in one heap that bench-net gives, whose bus
// addresses are its addresses in this process; so the model finds them, as it finds ours, and no huge pages are needed.

#define _GNU_SOURCE
#include <rte_config.h>
// Debian's was built with libbsd, whose headers nothing here needs.
#undef RTE_USE_LIBBSD

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <rte_cpuflags.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>

#define HEAP "redleaf"
#define LARGEST_BATCH 32
// Looks in vain after which a round is given up.
#define PATIENCE 1000000

static struct rte_mempool *pool;

static int failed(const char *what) {
    fprintf(stderr, "dpdk: %s: %s\n", what, rte_strerror(rte_errno));
    return -1;
}

// DPDK drives no card through the kernel's uio without bus addresses, and takes them to be unknown without huge pages. Here they are known: those of our heap. This is found
// before DPDK's own function of that name.
int rte_eal_using_phys_addrs(void) { return 1; }

// A register is ordinary memory here. The instruction that writes past all caches, which DPDK takes for tails where there is one, would cost some 700 cycles in it, and on a bus
// nothing beside what a write costs there anyway: so DPDK is told that there is none.
int rte_cpu_get_flag_enabled(enum rte_cpu_flag_t feature) {
    static int (*original)(enum rte_cpu_flag_t);
    if (!original)
        original = dlsym(RTLD_NEXT, "rte_cpu_get_flag_enabled");
    return feature == RTE_CPUFLAG_MOVDIRI ? 0 : original(feature);
}

// Has the card look at its registers.
static void (*look)(void);

// Likewise, in place of DPDK's own: whoever waits for the card finds that it has looked, however busy the host is.
void rte_delay_us_sleep(unsigned int us) {
    look();
    usleep(us);
}

// Brings up port 0 with one queue pair. `memory` is mapped, page-aligned, and zero.
int dpdk_start(int argc, char **argv, void *memory, size_t bytes, uint16_t ring, uint32_t buffers, void (*card)(void)) {
    look = card;
    rte_delay_us_callback_register(rte_delay_us_sleep);
    if (rte_eal_init(argc, argv) < 0)
        return failed("start");
    const size_t page = 4096;
    rte_iova_t *addresses = malloc(bytes / page * sizeof(rte_iova_t));
    for (size_t i = 0; addresses && i < bytes / page; i++)
        addresses[i] = (uintptr_t)memory + i * page;
    if (!addresses || rte_malloc_heap_create(HEAP) ||
        rte_malloc_heap_memory_add(HEAP, memory, bytes, addresses, bytes / page, page))
        return failed("the heap");
    free(addresses);
    int socket = rte_malloc_heap_get_socket(HEAP);
    pool = rte_pktmbuf_pool_create("packets", buffers, 512, 0, RTE_MBUF_DEFAULT_BUF_SIZE, socket);
    if (!pool)
        return failed("the packet pool");
    if (rte_eth_dev_count_avail() != 1)
        return failed("the port");
    // No offloads: with one, the driver takes a slower function.
    struct rte_eth_conf conf = {0};
    if (rte_eth_dev_configure(0, 1, 1, &conf))
        return failed("configuration");
    if (rte_eth_rx_queue_setup(0, 0, ring, socket, NULL, pool) || rte_eth_tx_queue_setup(0, 0, ring, socket, NULL))
        return failed("the queues");
    if (rte_eth_dev_start(0))
        return failed("starting the port");
    return 0;
}

// Each of these handles `packets` packets by batches of `batch`, and says how many cycles that took; 0 if it came to no end.

uint64_t dpdk_receive(uint32_t packets, uint16_t batch) {
    struct rte_mbuf *mbufs[LARGEST_BATCH];
    uint32_t count = 0, vain = 0;
    uint64_t begun = rte_rdtsc();
    while (count < packets) {
        uint16_t got = rte_eth_rx_burst(0, 0, mbufs, batch);
        rte_pktmbuf_free_bulk(mbufs, got);
        count += got;
        if (unlikely(got == 0) && ++vain > PATIENCE)
            return 0;
    }
    return count == packets ? rte_rdtsc() - begun : 0;
}

uint64_t dpdk_transmit(uint32_t packets, uint16_t batch, uint16_t length) {
    struct rte_mbuf *mbufs[LARGEST_BATCH];
    uint32_t count = 0;
    uint64_t begun = rte_rdtsc();
    while (count < packets) {
        if (rte_pktmbuf_alloc_bulk(pool, mbufs, batch))
            return 0;
        for (uint16_t i = 0; i < batch; i++)
            mbufs[i]->data_len = mbufs[i]->pkt_len = length;
        if (rte_eth_tx_burst(0, 0, mbufs, batch) != batch)
            return 0;
        count += batch;
    }
    return rte_rdtsc() - begun;
}

uint64_t dpdk_forward(uint32_t packets, uint16_t batch) {
    struct rte_mbuf *mbufs[LARGEST_BATCH];
    uint32_t count = 0, vain = 0;
    uint64_t begun = rte_rdtsc();
    while (count < packets) {
        uint16_t got = rte_eth_rx_burst(0, 0, mbufs, batch);
        if (unlikely(got == 0)) {
            if (++vain > PATIENCE)
                return 0;
            continue;
        }
        if (rte_eth_tx_burst(0, 0, mbufs, got) != got)
            return 0;
        count += got;
    }
    return count == packets ? rte_rdtsc() - begun : 0;
}

// Takes out whatever is in the ring; how much that was.
uint32_t dpdk_drain(void) {
    struct rte_mbuf *mbufs[LARGEST_BATCH];
    uint32_t count = 0;
    uint16_t got;
    while ((got = rte_eth_rx_burst(0, 0, mbufs, LARGEST_BATCH)) > 0) {
        rte_pktmbuf_free_bulk(mbufs, got);
        count += got;
    }
    return count;
}
