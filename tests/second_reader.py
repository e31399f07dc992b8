#!/usr/bin/env python3
"""A second reader of ize's log, written from wal-format.md alone. Python 3.9 or later, standard library only.

    second_reader.py DIRECTORY

prints the segments and records of a directory of segments as `ize wal inspect --json DIRECTORY` does (docs/cli.md says how), then one line
for each finding. It knows neither versions nor checkpoint: the lowest segment there is the floor, 0 the checkpoint.
"""

import base64
import datetime
import json
import os
import re
import sys
import zlib

# --- Conventions (section 7) ---------------------------------------------------------------------------------------------------------


def u16(b, at):
    return int.from_bytes(b[at : at + 2], "little")


def u32(b, at):
    return int.from_bytes(b[at : at + 4], "little")


def u64(b, at):
    return int.from_bytes(b[at : at + 8], "little")


def i64(b, at):
    return int.from_bytes(b[at : at + 8], "little", signed=True)


def padded(n):
    return (n + 7) // 8 * 8


# BLAKE3, from its public specification: https://github.com/BLAKE3-team/BLAKE3-specs
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
MASK = 0xFFFFFFFF


def compress(chaining, words, counter, length, flags):
    v = list(chaining) + list(IV[:4]) + [counter & MASK, counter >> 32, length, flags]
    m = list(words)

    def g(a, b, c, d, x, y):
        for add, r1, r2 in ((x, 16, 12), (y, 8, 7)):
            v[a] = (v[a] + v[b] + add) & MASK
            t = v[d] ^ v[a]
            v[d] = (t >> r1 | t << (32 - r1)) & MASK
            v[c] = (v[c] + v[d]) & MASK
            t = v[b] ^ v[c]
            v[b] = (t >> r2 | t << (32 - r2)) & MASK

    for turn in range(7):
        for i in range(4):
            g(i, 4 + i, 8 + i, 12 + i, m[2 * i], m[2 * i + 1])
        for i in range(4):
            g(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[8 + 2 * i], m[9 + 2 * i])
        if turn < 6:
            m = [m[p] for p in PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)] + [v[i + 8] ^ chaining[i] for i in range(8)]


def words_of(block):
    block = block + bytes(64 - len(block))
    return [u32(block, 4 * i) for i in range(16)]


def blake3(data):
    """The 32-byte hash."""
    chunks = [data[i : i + 1024] for i in range(0, len(data), 1024)] or [b""]

    def chunk(n, last_flags):
        blocks = [chunks[n][i : i + 64] for i in range(0, len(chunks[n]), 64)] or [b""]
        chaining = IV
        for i, block in enumerate(blocks):
            flags = (CHUNK_START if i == 0 else 0) | (CHUNK_END | last_flags if i == len(blocks) - 1 else 0)
            chaining = compress(chaining, words_of(block), n, len(block), flags)[: 8 if not flags & ROOT else 16]
        return chaining

    def tree(start, count, flags):
        if count == 1:
            return chunk(start, flags)
        left = 1 << (count - 1).bit_length() - 1
        words = tree(start, left, 0)[:8] + tree(start + left, count - left, 0)[:8]
        return compress(IV, words, 0, 64, PARENT | flags)

    return b"".join(w.to_bytes(4, "little") for w in tree(0, len(chunks), ROOT)[:8])


# --- Segments (section 8) ------------------------------------------------------------------------------------------------------------

HEADER, FIXED, FOOTER, MAX_BODY = 256, 32, 128, 163840
DAMAGE, TORN = "damage", "torn-tail"
NOBODY_KNOWS = 2**64 - 1


class Refused(Exception):
    pass


class Header:
    """The first 256 bytes; ValueError when they are damaged."""

    def __init__(self, b, store, segment):
        if len(b) < HEADER or b[:8] != b"IZEWAL\x00\x01" or zlib.crc32(b[:252]) != u32(b, 252):
            raise ValueError("header")
        if u32(b, 8) != 1:
            raise Refused("format version %d" % u32(b, 8))
        if u64(b, 16):
            raise Refused("read features %#x" % u64(b, 16))
        self.store, self.segment, self.epoch = b[32:48], u64(b, 48), u64(b, 56)
        self.first, self.durable = u64(b, 64), u64(b, 72)
        self.predecessor = (u64(b, 80), u64(b, 88), u64(b, 96), b[104:136])
        self.created = (i64(b, 136), u32(b, 144))
        self.allotted = u32(b, 148)
        wrong = u32(b, 12) != HEADER or (store is not None and store != self.store) or segment != self.segment
        if wrong or self.first == 0 or self.durable >= self.first or self.predecessor[1] >= self.first:
            raise ValueError("header")


class Record:
    def __init__(self, b, at):
        self.offset, self.crc = at, b[at : at + 4]
        self.kind, self.version, self.payload = u16(b, at + 8), b[at + 10], u32(b, at + 12)
        self.lsn, self.durable = u64(b, at + 16), u64(b, at + 24)
        self.body = b[at + FIXED : at + FIXED + u32(b, at + 4)]


class Footer:
    def __init__(self, b, at):
        self.count, self.first, self.last, self.payload = (u64(b, at + n) for n in (16, 24, 32, 40))
        self.time = (i64(b, at + 48), u32(b, at + 56))
        self.digest = b[at + 64 : at + 96]
        self.durable, self.next_lsn, self.next_epoch = (u64(b, at + n) for n in (96, 104, 112))


class Segment:
    """Reads one segment to its end and judges that end (section 10)."""

    def __init__(self, path, number, data, store, followed, follows, claim, ceiling):
        self.path, self.number, self.data = path, number, data
        self.prefix = store + number.to_bytes(8, "little")
        self.records, self.findings = [], []
        self.footer = self.header = self.stopped = None
        self.followed, self.ceiling = followed, ceiling
        self.bound = NOBODY_KNOWS if followed else 0
        self.whole = True
        try:
            self.header = Header(data, store, number)
            self.bound = max(self.bound, self.header.durable)
        except ValueError:
            self.whole = False
            self.findings.append([0, follows, ceiling, DAMAGE])
        self.state = "active" if self.header else "damaged"
        self.end = min(HEADER, len(data))
        self.used = self.end
        self.hashed = bytearray(data[:HEADER])
        self.read(self.header.first if self.header else None)
        self.first = self.header.first if self.header else (self.records[0].lsn if self.records else None)
        if self.first is None:
            self.first = self.footer.first if self.footer else follows
        self.last = self.footer.last if self.footer else self.records[-1].lsn if self.records else self.first - 1
        self.last = max(self.last, claim or 0)
        if self.header is None and self.footer:
            self.findings[0][2] = self.last
        self.digest = blake3(bytes(self.hashed))

    def crc(self, at, b):
        return zlib.crc32(self.prefix + at.to_bytes(8, "little") + b)

    def record_at(self, at):
        """The valid record at an offset, whatever its LSN."""
        b = self.data
        if at + FIXED > len(b) or u16(b, at + 8) == 0 or b[at + 11] or u32(b, at + 4) > MAX_BODY or u64(b, at + 16) <= u64(b, at + 24):
            return None
        body_end = at + FIXED + u32(b, at + 4)
        end = at + FIXED + padded(u32(b, at + 4))
        if end > len(b) or any(b[body_end:end]) or self.crc(at, b[at + 4 : end]) != u32(b, at):
            return None
        return Record(b, at)

    def footer_at(self, at):
        b = self.data
        if at + FOOTER > len(b) or b[at : at + 8] != b"IZEEND\x00\x01" or self.crc(at, b[at : at + 124]) != u32(b, at + 124):
            return None
        footer = Footer(b, at)
        return footer if footer.next_lsn > footer.last and footer.durable <= footer.last else None

    def read(self, expected):
        at = self.end
        while True:
            record = self.record_at(at)
            if record and expected in (None, record.lsn):
                self.records.append(record)
                self.hashed += record.crc
                self.bound = max(self.bound, record.durable)
                expected = record.lsn + 1
                at += FIXED + padded(len(record.body))
                self.used = at
                continue
            footer = self.footer_at(at)
            if footer:
                self.bound = max(self.bound, footer.durable)
                last = self.records[-1].lsn if self.records else (self.header.first - 1 if self.header else None)
                said = (footer.count, footer.first, footer.last, footer.digest)
                if self.whole and said != (len(self.records), self.header.first, last, blake3(bytes(self.hashed))):
                    self.state = "damaged"
                    self.findings.append([at, footer.last, self.ceiling, DAMAGE])
                    return
                self.footer, self.used = footer, at + FOOTER
                if self.state == "active":
                    self.state = "sealed"
                return
            x = expected if expected is not None else 1
            used = len(self.data[at:].rstrip(b"\x00"))
            behind = self.behind(at, x, expected is None) if used else None
            if x > self.bound:
                if used == 0 and (self.header is None or len(self.data) >= self.header.allotted):
                    return
                self.state = TORN
                self.findings.append([at, x, NOBODY_KNOWS, TORN])
                return
            self.state, self.whole = "damaged", False
            through = self.ceiling if behind is None else behind[1]
            # Every record is there, and the footer is not.
            self.findings.append([at, min(x, through), through, DAMAGE])
            if behind is None:
                return
            at, expected = behind[0], behind[2]
            self.used = at

    def behind(self, at, x, any_lsn):
        """The first valid record or footer behind an invalid record: offset, last LSN before it or of it, LSN expected."""
        first, place = None, at + 8
        while place + FIXED <= len(self.data):
            record = self.record_at(place)
            if record and (any_lsn or x < record.lsn <= x + (place - at) // FIXED):
                self.bound = max(self.bound, record.durable)
                first = first or (place, record.lsn - 1, record.lsn)
                place += FIXED + padded(len(record.body))
            else:
                footer = self.footer_at(place)
                if footer:
                    self.bound = max(self.bound, footer.durable)
                    return first or (place, footer.last, None)
                place += 8
                continue
            if x <= self.bound:
                break
        return first


def read_log(directory):
    """All segments, in order, and every finding: (segment number, offset, LSN, through, verdict)."""
    numbers = sorted(int(n[:16], 16) for n in os.listdir(directory) if re.fullmatch("[0-9a-f]{16}[.]seg", n))
    files = []
    for number in numbers:
        path = os.path.join(directory, "%016x.seg" % number)
        with open(path, "rb") as f:
            files.append((number, path, f.read()))
    headers, store = {}, None
    for number, _, data in files:
        try:
            headers[number] = Header(data, None, number)
            store = store or headers[number].store
        except ValueError:
            pass
    if store is None:
        sys.exit("there is no segment with a sound header in %s" % directory)
    segments, findings = [], []
    end, before = 0, None
    for i, (number, path, data) in enumerate(files):
        followed = i + 1 < len(files)
        following = headers.get(files[i + 1][0]) if followed else None
        claim = following.predecessor[1] if following and following.predecessor[0] == number else None
        ceiling = claim if claim is not None else following.first - 1 if following else NOBODY_KNOWS
        s = Segment(path, number, data, store, followed, end + 1, claim, ceiling)
        found = [(number, *f) for f in s.findings if f[0] == 0 and s.header is None]
        if before and number != before.number + 1:
            through = s.header.first - 1 if s.header else NOBODY_KNOWS
            found.append((before.number + 1, 0, end + 1, through, DAMAGE))
        elif before and s.header and before.footer:
            h, f = s.header, before.footer
            is_so = (before.number, f.last, before.used, f.digest)
            epoch = before.header.epoch if before.header else 0
            jumps = h.first != f.last + 1
            if h.predecessor != is_so or h.epoch < epoch or h.first < f.next_lsn or (jumps and h.epoch == epoch):
                found.append((number, 80, f.last + 1, max(h.first - 1, f.last + 1), DAMAGE))
        found += [(number, *f) for f in s.findings if not (f[0] == 0 and s.header is None)]
        findings += found
        segments.append(s)
        end, before = max(end, s.last), s
    return segments, findings


# --- Bodies (section 9) --------------------------------------------------------------------------------------------------------------


class Body:
    """A cursor over a body; ValueError when it is not what its table says."""

    def __init__(self, b):
        self.b, self.at = b, 0

    def take(self, n):
        if n > len(self.b) - self.at:
            raise ValueError("cut")
        self.at += n
        return self.b[self.at - n : self.at]

    def varint(self, bits):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if value >> bits:
                raise ValueError("too large")
            if byte < 0x80:
                return value
            if shift >= bits:
                raise ValueError("too long")

    def u32(self):
        return self.varint(32)

    def u64(self):
        return self.varint(64)

    def i64(self):
        n = self.varint(64)
        return (n >> 1) ^ -(n & 1)

    def bytes(self):
        return self.take(self.varint(64))

    def text(self):
        return self.bytes().decode("utf-8")

    def option(self, read):
        flag = self.take(1)[0]
        if flag > 1:
            raise ValueError("option")
        return read() if flag else None

    def list(self, read):
        return [read() for _ in range(self.varint(64))]

    def enum(self, count):
        n = self.varint(32)
        if n >= count:
            raise ValueError("enum")
        return n

    def time(self):
        return self.i64(), self.u32()

    def pair(self):
        return self.u32(), self.u32()

    def end(self):
        if self.at != len(self.b):
            raise ValueError("left over")


KINDS = {
    0x10: "create", 0x11: "mkdir", 0x12: "mknod", 0x13: "symlink", 0x14: "link", 0x15: "unlink", 0x16: "rmdir", 0x17: "rename",
    0x18: "write", 0x19: "truncate", 0x1A: "fallocate", 0x1B: "clone", 0x1C: "chmod", 0x1D: "chown", 0x1E: "utimens",
    0x1F: "setxattr", 0x20: "removexattr", 0x21: "forget", 0x30: "marker",
}  # fmt: skip
WHAT = ("file", "directory", "symlink", "fifo", "character-device", "block-device", "socket")


def fields_of(op, b):
    """The fields of an operation, in the order of the table of kinds."""
    f = {}
    if op in ("create", "mkdir", "mknod", "symlink"):
        f["dir"], f["name"], f["ino"] = b.u64(), b.bytes(), b.u64()
        if op == "mknod":
            f["what"] = b.enum(7)
        if op == "symlink":
            f["target"] = b.bytes()
        else:
            f["mode"] = b.u32()
        f["owner"] = b.pair()
        if op == "mknod":
            f["rdev"] = b.u32()
    elif op == "link":
        f["ino"], f["dir"], f["name"] = b.u64(), b.u64(), b.bytes()
    elif op in ("unlink", "rmdir"):
        f["dir"], f["name"], f["ino"] = b.u64(), b.bytes(), b.u64()
    elif op == "rename":
        f["dir"], f["name"], f["ino"], f["to_dir"], f["to_name"] = b.u64(), b.bytes(), b.u64(), b.u64(), b.bytes()
        f["how"] = b.enum(3)
        if f["how"]:
            f["other"] = b.u64()
    elif op == "write":
        f["ino"], f["offset"] = b.u64(), b.u64()
        f["blob"] = b.take(32) if b.enum(2) else None
        f["len"] = b.u32()
        f["size_after"], f["mode_after"] = b.u64(), b.option(b.u32)
        if f["blob"] is None:
            b.take(f["len"])
    elif op == "truncate":
        f["ino"], f["old_size"], f["size"], f["mode_after"] = b.u64(), b.u64(), b.u64(), b.option(b.u32)
    elif op == "fallocate":
        f["ino"], f["how"], f["offset"], f["len"], f["size_after"] = b.u64(), b.enum(3), b.u64(), b.u64(), b.u64()
    elif op == "clone":
        f["from"], f["from_offset"], f["ino"], f["offset"] = b.u64(), b.u64(), b.u64(), b.u64()
        f["len"], f["size_after"], f["mode_after"] = b.u64(), b.u64(), b.option(b.u32)
    elif op == "chmod":
        f["ino"], f["old"], f["new"] = b.u64(), b.u32(), b.u32()
    elif op == "chown":
        f["ino"], f["old"], f["new"], f["mode_after"] = b.u64(), b.pair(), b.pair(), b.option(b.u32)
    elif op == "utimens":
        f["ino"], f["old"] = b.u64(), (b.time(), b.time())
        f["atime"], f["mtime"] = b.option(b.time), b.option(b.time)
    elif op == "setxattr":
        f["ino"], f["xattr"], f["value"] = b.u64(), b.bytes(), b.bytes()
    elif op == "removexattr":
        f["ino"], f["xattr"] = b.u64(), b.bytes()
    elif op == "forget":
        f["ino"] = b.u64()
    elif op == "marker":
        f["marker"] = b.enum(3)
        if f["marker"] == 0:
            f["message"] = b.option(b.text)
        elif f["marker"] == 1:
            f["at"], f["paths"] = b.u64(), b.list(b.bytes)
    return f


# --- As `ize wal inspect --json` shows it (docs/cli.md) -----------------------------------------------------------------------------


def put_name(out, key, b):
    out[key] = b.decode("utf-8", "replace")
    try:
        b.decode("utf-8")
    except UnicodeDecodeError:
        out[key + "_b64"] = base64.b64encode(b).decode()


def named(key, b):
    out = {}
    put_name(out, key, b)
    return out


def show_time(t):
    seconds, nanos = t
    try:
        day = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return "%d.%09d" % t
    fraction = (".%09d" % nanos).rstrip("0") if nanos else ""
    return day.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + fraction + "Z"


def mode(bits):
    return None if bits is None else "%04o" % bits


def who(out, pid, comm):
    out["pid"] = pid
    if pid == 0:
        out["process"] = "unknown"
    else:
        put_name(out, "process", comm)


class Names:
    """Where inodes are, by what the records said so far."""

    def __init__(self):
        self.inodes, self.processes = {}, {}

    def enter(self, ino, directory, name):
        names, gone = self.inodes.get(ino, ([], False))
        self.inodes[ino] = ([] if gone else names) + [(directory, name)], False

    def leave(self, ino, directory, name):
        names = [n for n in self.inodes.get(ino, ([], False))[0] if n != (directory, name)]
        self.inodes[ino] = (names, False) if names else ([(directory, name)], True)

    def learn(self, op, f):
        if op == "rename":
            old, new = (f["dir"], f["name"]), (f["to_dir"], f["to_name"])
            if f["how"]:
                self.leave(f["other"], *new)
            if f["how"] == 2:
                self.enter(f["other"], *old)
            self.leave(f["ino"], *old)
            self.enter(f["ino"], *new)
        elif op in ("unlink", "rmdir"):
            self.leave(f["ino"], f["dir"], f["name"])
        elif op == "forget":
            self.inodes.pop(f["ino"], None)
        elif "dir" in f:
            self.enter(f["ino"], f["dir"], f["name"])

    def path(self, ino):
        parts = []
        while ino != 1:
            if ino not in self.inodes or len(parts) > 4096:
                return None
            ino, name = self.inodes[ino][0][0]
            parts.append(name)
        return b"/".join(reversed(parts))

    def join(self, directory, name):
        above = self.path(directory)
        return None if above is None else above + b"/" + name if above else name


def show_operation(out, op, b, names):
    time, behind = b.time(), b.u64()
    if time[1] >= 10**9:
        raise ValueError("nanoseconds")
    process, link = (b.u32(), b.u64()), b.option(b.u64)
    f = fields_of(op, b)
    b.end()
    clamped = time[0] * 10**9 + time[1] + behind
    out["op"], out["time"], out["ino"] = op, show_time(divmod(clamped, 10**9)), f.get("ino")
    if "name" in f:
        out["dir"] = f["dir"]
        put_name(out, "name", f["name"])
        path = names.join(f["dir"], f["name"])
    else:
        path = names.path(f["ino"]) if "ino" in f else None
    if path is not None:
        put_name(out, "path", path)
    if "to_name" in f:
        out["to_dir"] = f["to_dir"]
        put_name(out, "to_name", f["to_name"])
        to = names.join(f["to_dir"], f["to_name"])
        if to is not None:
            put_name(out, "to", to)
    who(out, process[0], names.processes.get(process, b""))
    if link is not None:
        out["link"] = link
    if op in ("create", "mkdir", "mknod"):
        out["mode"] = mode(f["mode"])
    if op in ("create", "mkdir", "mknod", "symlink"):
        out["owner"] = "%d:%d" % f["owner"]
    if op == "mknod":
        out["what"], out["rdev"] = WHAT[f["what"]], f["rdev"]
    if op == "symlink":
        put_name(out, "target", f["target"])
    if op == "rename" and f["how"]:
        out["replaced" if f["how"] == 1 else "exchanged"] = f["other"]
    if op in ("write", "clone", "fallocate"):
        out["offset_in_file"], out["size"], out["size_after"] = f["offset"], f["len"], f["size_after"]
    if op == "write" and f["blob"]:
        out["blob"] = f["blob"].hex()
    if op == "fallocate":
        out["what"] = ("allocate", "punch-hole", "zero-range")[f["how"]]
    if op == "clone":
        out["from_ino"], out["from_offset"] = f["from"], f["from_offset"]
    if op == "truncate":
        out["old_size"], out["size"] = f["old_size"], f["size"]
    if op in ("write", "clone", "truncate", "chown"):
        out["mode_after"] = mode(f["mode_after"])
    if op == "chmod":
        out["old_mode"], out["mode"] = mode(f["old"]), mode(f["new"])
    if op == "chown":
        out["old_owner"], out["owner"] = "%d:%d" % f["old"], "%d:%d" % f["new"]
    if op == "utimens":
        out["old_atime"], out["old_mtime"] = map(show_time, f["old"])
        out["atime"], out["mtime"] = (None if f[k] is None else show_time(f[k]) for k in ("atime", "mtime"))
    if op in ("setxattr", "removexattr"):
        put_name(out, "xattr", f["xattr"])
    if op == "setxattr":
        out["size"] = len(f["value"])
    if op == "marker":
        out["marker"] = ("commit", "restore", "unmount")[f["marker"]]
        if f["marker"] == 0:
            out["message"] = f["message"]
        if f["marker"] == 1:
            out["restored"], out["paths"] = f["at"], [named("path", p) for p in f["paths"]]
    names.learn(op, f)


def show_process(out, version, b, names):
    key = (b.u32(), b.u64())
    comm, uid, session = b.bytes(), b.u32(), b.u32()
    parents = b.list(lambda: (b.u32(), b.bytes()))
    executable, arguments = b"", None
    if version == 2:
        executable, arguments = b.bytes(), b.option(lambda: b.list(b.bytes))
    b.end()
    out["op"] = "process"
    who(out, key[0], comm)
    out["start"], out["uid"], out["session"], out["parents"] = key[1], uid, session, []
    for pid, name in parents:
        out["parents"].append({})
        who(out["parents"][-1], pid, name)
    put_name(out, "executable", executable)
    out["command_line"] = None if arguments is None else [named("arg", a) for a in arguments]
    names.processes[key] = comm


def show_record(segment, record, names):
    out = {
        "type": "record",
        "lsn": record.lsn,
        "segment": segment.number,
        "offset": record.offset,
        "durable_lsn": record.durable,
        "bytes": len(record.body),
    }
    kind, body = record.kind, Body(record.body)
    if kind == 0xFF00 and not record.body:
        out["op"] = "mark"
    elif kind == 2 and record.version in (1, 2):
        show_process(out, record.version, body, names)
    elif kind in KINDS and record.version == 1:
        show_operation(out, KINDS[kind], body, names)
    else:
        out["op"], out["kind"] = "unknown", kind
        if kind < 0x8000:
            raise Refused("kind %#06x, body version %d" % (kind, record.version))
    return out


def show_segment(s):
    return {
        "type": "segment",
        "id": s.number,
        "file": s.path,
        "state": s.state,
        "first_lsn": s.first,
        "last_lsn": s.last,
        "records": len(s.records),
        "bytes": len(s.data),
        "used": s.used,
        "payload": s.footer.payload if s.footer else sum(r.payload for r in s.records),
        "epoch": s.header.epoch if s.header else None,
        "created": show_time(s.header.created) if s.header else None,
        "last_time": show_time(s.footer.time) if s.footer else show_time(s.header.created) if s.header else None,
        "digest": s.digest.hex(),
    }


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    assert blake3(b"abc").hex() == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    segments, findings = read_log(sys.argv[1])
    names = Names()
    lines = [show_segment(s) for s in segments]
    lines += [show_record(s, record, names) for s in segments for record in s.records]
    for number, offset, lsn, through, verdict in findings:
        through = None if through == NOBODY_KNOWS else through
        lines.append({"type": "finding", "verdict": verdict, "segment": number, "offset": offset, "lsn": lsn, "through": through})
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
