"""pylibmc (on libmemcached) against the store at argv[1], pipelined and from several threads."""
import sys
import threading
import pylibmc

def client(**behaviours):
    return pylibmc.Client([sys.argv[1]], binary=False, behaviors={"tcp_nodelay": True, "receive_timeout": 20_000_000, **behaviours})

one = client(cas=True)
one.flush_all()
assert one.set("a", "one") and one.get("a") == "one" and "a" in one
assert one.add("a", "two") is False and one.replace("a", "two") and one.get("a") == "two"
assert one.set("n", 5) and one.incr("n", 3) == 8 and one.decr("n") == 7
value, unique = one.gets("a")
assert value == "two" and one.cas("a", "three", unique) and not one.cas("a", "four", unique)
assert one.set_multi({f"k{number}": number for number in range(100)}) == []
assert one.get_multi([f"k{number}" for number in range(100)])["k99"] == 99
assert one.incr_multi(["k1", "k2"], delta=10) is None and one.get("k1") == 11
assert one.set("large", "x" * 300_000, min_compress_len=1000, compress_level=1) and len(one.get("large")) == 300_000
assert one.touch("a", 100) and one.delete("a") and one.get("a") is None
assert one.delete_multi(["k1", "k2"]) and one.get("k1") is None
[(_, stats)] = one.get_stats()
assert b"curr_items" in stats or "curr_items" in stats

quick = client(no_block=True)
for number in range(500):
    quick.set(f"quick-{number}", number)
assert quick.get("quick-499") == 499 and quick.get("quick-0") == 0

one.set("shared", 0)
def count():
    mine = client()
    for _ in range(100):
        mine.incr("shared")
threads = [threading.Thread(target=count) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert one.get("shared") == 800, one.get("shared")
print("pylibmc is content")
