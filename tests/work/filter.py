"""filter.py - classic BPF on a socket, which the guest's kernel compiles: of 3 x 256 datagrams those get
through that the program likes, and after a change of program others."""
import array
import socket
import struct
import sys

LD_B, LD_LEN, JEQ, JGE, AND, RET_K = 0x30, 0x80, 0x15, 0x35, 0x54, 6
SO_ATTACH_FILTER = 26
DATAGRAMS = [bytes([v] * size) for size in (1, 2, 3) for v in range(256)]


def attach(sock, program):
    code = array.array("B", b"".join(struct.pack("=HBBI", *i) for i in program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), code.buffer_info()[0]))


def passed(receiver, sender):
    """What of it all gets through, sent and received one by one."""
    got = []
    for d in DATAGRAMS:
        sender.send(d)
        try:
            got.append(receiver.recv(16))
        except BlockingIOError:
            pass
    return got


def main():
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    for mask in range(1, 33):
        # byte 0 & mask == mask, or else two bytes and byte 0 >= 128
        attach(receiver, [(LD_B, 0, 0, 0), (AND, 0, 0, mask), (JEQ, 5, 0, mask), (LD_LEN, 0, 0, 0), (JEQ, 0, 2, 2),
                          (LD_B, 0, 0, 0), (JGE, 1, 0, 128), (RET_K, 0, 0, 0), (RET_K, 0, 0, 0xffffffff)])
        want = [d for d in DATAGRAMS if d[0] & mask == mask or (len(d) == 2 and d[0] >= 128)]
        got = passed(receiver, sender)
        if got != want:
            sys.exit(f"mask {mask}: {len(got)} datagrams, not {len(want)}")
    print("filters agree")


main()
