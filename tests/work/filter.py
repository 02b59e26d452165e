"""filter.py - classic BPF on a socket, which the guest's kernel compiles: of 3 x 256 datagrams those get
through that the program likes, and after a change of program others."""
import array
import socket
import struct
import sys

LD_B, LD_LEN, JEQ, JGE, AND, RET_K = 0x30, 0x80, 0x15, 0x35, 0x54, 6
SO_ATTACH_FILTER = 26
UDP = 8  # bytes of header that the program sees in front


def attach(sock, program):
    code = array.array("B", b"".join(struct.pack("=HBBI", *i) for i in program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), code.buffer_info()[0]))


def passed(receiver, sender):
    got = []
    for size in (1, 2, 3):
        for v in range(256):
            sender.send(bytes([v] * size))
    receiver.settimeout(0)
    try:
        while True:
            got.append(receiver.recv(16))
    except BlockingIOError:
        return got


def main():
    everything = [bytes([v] * size) for size in (1, 2, 3) for v in range(256)]
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
    receiver.bind(("127.0.0.1", 0))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(receiver.getsockname())
    for mask in range(1, 33):
        # byte 0 & mask == mask, or else two bytes and byte 0 >= 128
        attach(receiver, [(LD_B, 0, 0, UDP), (AND, 0, 0, mask), (JEQ, 5, 0, mask), (LD_LEN, 0, 0, 0),
                          (JEQ, 0, 2, UDP + 2), (LD_B, 0, 0, UDP), (JGE, 1, 0, 128), (RET_K, 0, 0, 0),
                          (RET_K, 0, 0, 0xffffffff)])
        want = [d for d in everything if d[0] & mask == mask or (len(d) == 2 and d[0] >= 128)]
        got = passed(receiver, sender)
        if got != want:
            sys.exit(f"mask {mask}: {len(got)} datagrams, not {len(want)}")
    print("filters agree")


main()
