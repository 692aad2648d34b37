"""pymemcache (Pinterest) against the store at argv[1]: every command that it knows."""
import sys
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError

client = Client((sys.argv[1], 11211), timeout=20, connect_timeout=20, default_noreply=False)
client.flush_all()
assert client.set("a", b"1") and client.get("a") == b"1"
assert client.get("none", default=b"x") == b"x"
assert client.add("a", b"2") is False and client.add("b", b"2") is True
assert client.replace("c", b"3") is False and client.replace("b", b"3") is True
assert client.append("b", b"4") and client.prepend("b", b"2") and client.get("b") == b"234"
assert client.append("none", b"4") is False
value, unique = client.gets("a")
assert value == b"1" and client.cas("a", b"5", unique) is True
assert client.cas("a", b"6", unique) is False and client.cas("none", b"6", unique) is None
assert client.set("n", b"10") and client.incr("n", 5) == 15 and client.decr("n", 100) == 0
assert client.incr("none", 1) is None
assert client.touch("n", 100) is True and client.touch("none", 100) is False
assert client.delete("n") is True and client.delete("n") is False
many = {f"many-{number}": bytes([number]) * number * 50 for number in range(1, 200)}
assert client.set_many(many) == [] and client.get_many(list(many)) == many
assert set(client.gets_many(list(many))) == set(many)
assert client.delete_many(list(many)) and client.get_many(list(many)) == {}
anything = bytes(range(256)) * 64 + b"\r\nEND\r\n"
assert client.set("k" * 250, anything, flags=0xFFFFFFFF) and client.get("k" * 250) == anything
longest = b"x" * (1024 * 1024 - 512)
assert client.set("long", longest) and client.get("long") == longest
try:
    client.set("longer", b"x" * (2 * 1024 * 1024))
    raise SystemExit("a value of 2 MiB was taken")
except MemcacheServerError:
    pass
try:
    client.incr("a" * 3 + "", 1) if client.set("aaa", b"word") and client.incr("aaa", 1) else None
    raise SystemExit("a word was counted up")
except MemcacheClientError:
    pass
client.set("quiet", b"1", noreply=True)
client.incr("quiet", 1, noreply=True)
client.delete("other", noreply=True)
assert client.get("quiet") == b"2"
assert client.set("short-lived", b"1", expire=-1) and client.get("short-lived") is None
assert int(client.stats()[b"curr_items"]) > 0 and client.version()
client.flush_all()
assert client.get("a") is None
client.quit()
print("pymemcache is content")
