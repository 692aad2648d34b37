"""python-memcached (Tummy) against the store at argv[1]."""
import sys
import memcache

client = memcache.Client([f"{sys.argv[1]}:11211"], socket_timeout=20, cache_cas=True)
assert client.set("a", "one") and client.get("a") == "one"
assert client.set("object", {"list": [1, 2.5, None], "text": "ä"}) and client.get("object")["text"] == "ä"
assert client.set("number", 41) and client.incr("number") == 42 and client.decr("number", 2) == 40
assert client.add("a", "two") in (0, False) and client.replace("a", "two") and client.get("a") == "two"
assert client.set("text", "b") and client.append("text", "c") and client.prepend("text", "a") and client.get("text") == "abc"
assert client.set_multi({"x": 1, "y": 2, "z": 3}, key_prefix="m-") == []
assert client.get_multi(["x", "y", "z", "none"], key_prefix="m-") == {"x": 1, "y": 2, "z": 3}
assert client.gets("a") == "two" and client.cas("a", "three") and client.get("a") == "three"
large = "compressible " * 20000
assert client.set("large", large, min_compress_len=100) and client.get("large") == large
assert client.touch("a", 100) and client.delete("a") and client.get("a") is None
assert client.delete_multi(["x", "y", "z"], key_prefix="m-") and client.get("m-x") is None
[(_, stats)] = client.get_stats()
assert int(stats["cmd_get"]) > 0
client.flush_all()
assert client.get("large") is None
print("python-memcached is content")
