"""sums.py - run by a guest's python3 and the host's, which must print the same."""
import hashlib
import re
import struct
import zlib


def lcg(n, seed=12345):
    for _ in range(n):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        yield seed


def primes(n):
    sieve = bytearray([1]) * (n + 1)
    for i in range(2, int(n**0.5) + 1):
        if sieve[i]:
            sieve[i * i::i] = bytes(len(range(i * i, n + 1, i)))
    return [i for i in range(2, n + 1) if sieve[i]]


def floats():
    x, s = 0.5, 0.0
    for i in range(1, 100000):
        x = 3.99 * x * (1 - x)
        s += x / i - (x ** 0.5) * 1e-3
    return struct.pack("<d", s).hex()


def bignum():
    a, b = 0, 1
    for _ in range(20000):
        a, b = b, a + b
    return hash_of(str(pow(3, a % 10**6, 10**60 + 7)) + str(a)[:50])


def texts():
    words = ["%x" % v for v in lcg(40000)]
    counts = {}
    for w in words:
        counts[w[:2]] = counts.get(w[:2], 0) + 1
    joined = " ".join(sorted(words))
    return hash_of(repr(sorted(counts.items())) + re.sub(r"(\w)(\d)", r"\2\1", joined))


class Node:
    def __init__(self, value):
        self.value, self.left, self.right = value, None, None

    def add(self, value):
        side = "left" if value < self.value else "right"
        child = getattr(self, side)
        if child:
            child.add(value)
        else:
            setattr(self, side, Node(value))

    def walk(self):
        if self.left:
            yield from self.left.walk()
        yield self.value
        if self.right:
            yield from self.right.walk()


def tree():
    root = Node(2**63)
    for v in lcg(5000):
        root.add(v)
    return hash_of(",".join(map(str, root.walk())))


def hash_of(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digests():
    data = b"".join(struct.pack("<Q", v) for v in lcg(100000))
    return " ".join([hashlib.md5(data).hexdigest(), hashlib.sha1(data).hexdigest(), hashlib.blake2b(data).hexdigest()[:16],
                     "%08x" % zlib.crc32(data), str(zlib.decompress(zlib.compress(data, 6)) == data)])


print("primes", hash_of(str(primes(300000))))
print("floats", floats())
print("bignum", bignum())
print("texts", texts())
print("tree", tree())
print("digests", digests())
