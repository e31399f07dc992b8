#!/usr/bin/env python3
"""Rescue revision 4. Brings the files out of a store of ize without ize. Python 3.8 or later, standard library only.

    python3 rescue.py STORE OUT               the newest state, the log above the last version included
    python3 rescue.py STORE OUT --version N   the state of version N
    python3 rescue.py STORE --list            the versions

STORE is a project's directory (with wal/, blobs/ and meta/), or a copy of it; it is only read. OUT must not exist, or be empty. Bytes, modes,
owners (where allowed), times, extended attributes, hard links, symbolic links, fifos and holes come out as they were.

Checked is the CRC of everything that is read; BLAKE3 hashes only if the module `blake3` is installed. Compressed blobs need Python 3.14
(compression.zstd) or the command `zstd`. Without either, the compressed bytes are written to OUT.zst/, with the command to run, on whatever
machine has it; then run this again (with an empty OUT), and it takes the results from there.

Whatever cannot be brought out whole is named. What is readable of such a file goes to OUT.damaged/, with zeros for the rest. Named LOST is what
should be there, PURGED what was taken out on purpose (`ize purge`), which is nothing missing.
Exit codes: 0 everything is out, 1 something is missing and was named, 2 wrong usage, 3 there is nothing to read.

Written from wal-format.md alone (section numbers below are its).
"""

import bisect
import datetime
import os
import re
import shutil
import stat
import subprocess
import sys
import zlib

try:
    from blake3 import blake3
except ImportError:
    blake3 = None
try:
    from compression import zstd
except ImportError:
    zstd = None

WHAT = ("file", "directory", "symlink", "fifo", "character device", "block device", "socket")
FILE, DIRECTORY, SYMLINK, FIFO, CHAR, BLOCK, SOCKET = range(7)
ROOT = 1
LOST = []
PURGED = []


def number(b, at, n):
    return int.from_bytes(b[at : at + n], "little")


def padded(n):
    return (n + 7) // 8 * 8


def shown(name):
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)


def say(text):
    print("".join(c if c.isprintable() else "\\x%02x" % ord(c) for c in text), file=sys.stderr)


def lose(what, why):
    LOST.append(what)
    say("LOST: %s: %s" % (what, why))


def tell_purged(what, why):
    PURGED.append(what)
    say("PURGED: %s: %s" % (what, why))


def day(nanoseconds):
    try:
        return (datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=nanoseconds // 10**9)).isoformat() + "Z"
    except OverflowError:
        return "a day that no calendar has"


class Wrong(Exception):
    """Bytes that are not what they should be."""


class Purged(Wrong):
    """Bytes that are gone on purpose."""


class NeedsZstd(Wrong):
    """Compressed bytes, and nothing here that inflates them."""


class Body:
    """A cursor over a body in the encoding of section 9."""

    def __init__(self, b):
        self.b, self.at = b, 0

    def take(self, n):
        if n > len(self.b) - self.at:
            raise Wrong("it is cut short")
        self.at += n
        return self.b[self.at - n : self.at]

    def u(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if value >> 64:
                raise Wrong("a number is too large")
            if byte < 0x80:
                return value
            if shift >= 70:
                raise Wrong("a number is too long")

    def i(self):
        n = self.u()
        return (n >> 1) ^ -(n & 1)

    def byte(self):
        return self.take(1)[0]

    def bytes(self):
        return bytes(self.take(self.u()))

    def id(self):
        return bytes(self.take(32))

    def option(self, read):
        flag = self.byte()
        if flag > 1:
            raise Wrong("an option is neither there nor not")
        return read() if flag else None

    def list(self, read):
        count = self.u()
        if count > len(self.b) - self.at:
            raise Wrong("a list is longer than its bytes")
        return [read() for _ in range(count)]

    def enum(self, count):
        n = self.u()
        if n >= count:
            raise Wrong("a kind is not known")
        return n

    def time(self):
        return self.i() * 10**9 + self.u()

    def end(self, value):
        if self.at != len(self.b):
            raise Wrong("bytes are left over")
        return value


# --- Packs (section 17) --------------------------------------------------------------------------------------------------------------


class Packs:
    def __init__(self, directory, store, spare, purged):
        self.purged = purged
        self.store, self.spare, self.places, self.inflated, self.dumped = store, spare, {}, {}, set()
        self.command = shutil.which("zstd") if zstd is None else None
        for name in sorted(n for n in listed(directory) if re.fullmatch("[0-9a-f]{16}[.]pack", n)):
            try:
                self.read(os.path.join(directory, name), int(name[:16], 16))
            except OSError as e:
                lose("pack " + name, e)

    def read(self, path, pack):
        with open(path, "rb") as f:
            size = f.seek(0, 2)
            at = 64
            while at + 64 <= size and at < 64 << 20:
                f.seek(at)
                head = f.read(64)
                entry = self.entry(f, pack, at, head, size) if head[:4] == b"\xb1\x5a\x45\x65" else None
                if entry is None:
                    at += 8
                    continue
                ident, encoding, raw, stored, table, data = entry
                # The youngest copy first, the others behind it.
                self.places.setdefault(ident, []).insert(0, (path, encoding, raw, stored, table, data))
                at = padded(data + stored)

    def entry(self, f, pack, at, head, size):
        raw, stored = number(head, 16, 8), number(head, 24, 8)
        if any(head[9:16]) or head[8] > 1 or raw > 16 << 20 or stored > raw or (head[8] == 0 and stored != raw):
            return None
        n = (stored + 65535) // 65536
        table = f.read(4 * n)
        data = at + 64 + 4 * n
        where = self.store + pack.to_bytes(8, "little") + at.to_bytes(8, "little")
        if data + stored > size or zlib.crc32(where + head[8:] + table) != number(head, 4, 4):
            return None
        return head[32:64], head[8], raw, stored, table, data

    def length(self, ident):
        return self.places[ident][0][2] if ident in self.places else None

    def get(self, ident):
        """The bytes of a blob."""
        if ident in self.inflated:
            return self.inflated[ident]
        if ident in self.purged and ident not in self.places:
            raise Purged("blob %s was purged on %s" % (ident.hex(), day(self.purged[ident])))
        why = Wrong("blob %s is in no pack" % ident.hex())
        for place in self.places.get(ident, []):
            try:
                return self.one(ident, place)
            except NeedsZstd:
                raise
            except (Wrong, OSError) as e:
                why = e if isinstance(e, Wrong) else Wrong(str(e))
        raise why

    def one(self, ident, place):
        path, encoding, raw, stored, table, data = place
        with open(path, "rb") as f:
            f.seek(data)
            b = f.read(padded(data + stored) - data)
        if len(b) < padded(data + stored) - data:
            raise Wrong("blob %s is cut short in %s" % (ident.hex(), path))
        for n in range(len(table) // 4):
            if zlib.crc32(b[n << 16 : (n + 1) << 16]) != number(table, 4 * n, 4):
                raise Wrong("blob %s fails its check in %s, offset %d" % (ident.hex(), path, data + (n << 16)))
        b = b[:stored]
        if encoding == 1:
            b = self.inflate(ident, b)
        if len(b) != raw or (blake3 and blake3(b).digest() != ident):
            raise Wrong("blob %s in %s has other bytes than it should" % (ident.hex(), path))
        if encoding == 1:
            while len(self.inflated) > 64:
                del self.inflated[next(iter(self.inflated))]
            self.inflated[ident] = b
        return b

    def inflate(self, ident, b):
        if zstd is not None:
            try:
                return zstd.decompress(b)
            except zstd.ZstdError as e:
                raise Wrong("blob %s cannot be inflated: %s" % (ident.hex(), e))
        if self.command:
            done = subprocess.run([self.command, "-dcq"], input=b, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            if done.returncode:
                raise Wrong("blob %s cannot be inflated: %s" % (ident.hex(), shown(done.stderr.strip())))
            return done.stdout
        ready = os.path.join(self.spare, ident.hex())
        if os.path.exists(ready):
            with open(ready, "rb") as f:
                return f.read()
        self.dump(ident, b)
        raise NeedsZstd("it is compressed; run: zstd -d %s.zst" % ready)

    def dump(self, ident, b):
        os.makedirs(self.spare, exist_ok=True)
        self.dumped.add(ident)
        with open(os.path.join(self.spare, ident.hex() + ".zst"), "wb") as f:
            f.write(b)

    def dump_all(self):
        """Every compressed blob: what a compressed directory names is not known before it is inflated."""
        for ident, places in self.places.items():
            if places[0][1] == 1 and ident not in self.dumped and not os.path.exists(os.path.join(self.spare, ident.hex())):
                path, _, _, stored, _, data = places[0]
                with open(path, "rb") as f:
                    f.seek(data)
                    self.dump(ident, f.read(stored))


# --- Checkpoint and version log (section 21) -----------------------------------------------------------------------------------------


def read_checkpoint(path, store):
    """(lsn, root), or None when there is none or it is damaged."""
    try:
        with open(path, "rb") as f:
            b = f.read(4097)
    except FileNotFoundError:
        return (0, None)
    body = b[20:]
    if b[:8] != b"IZECHKPT" or number(b, 12, 4) != len(body) or number(b, 16, 4) != zlib.crc32(store + b[:16] + body):
        return None
    if number(b, 8, 4) != 1:
        sys.exit("the checkpoint has a format version that this script does not know")
    c = Body(body)
    c.take(16)
    lsn, _ = c.u(), c.u()
    return (lsn, c.option(c.id))


def read_versions(path, store):
    try:
        with open(path, "rb") as f:
            b = f.read()
    except FileNotFoundError:
        return []
    # A damaged header says nothing: the records tell their form by their length.
    form = number(b, 8, 4) if number(b, 28, 4) == zlib.crc32(b[:28]) else None
    if form not in (1, 2, None):
        sys.exit("the version log has a format version that this script does not know")
    found, at = [], 32
    while at + 8 <= len(b):
        size = number(b, at + 4, 4)
        body = b[at + 8 : at + 8 + size]
        if len(body) == size <= 64 << 20 and zlib.crc32(store + at.to_bytes(8, "little") + size.to_bytes(8, "little") + body) == number(b, at, 4):
            c = Body(body)
            v = {"seq": c.u(), "first": c.u(), "last": c.u(), "begin": c.time(), "end": c.time(), "root": c.id(), "parent": c.option(c.id)}
            v["paths"] = len(c.list(lambda: (c.bytes(), c.bytes() if c.enum(4) == 3 else None)))
            c.list(lambda: (c.u(), c.u(), c.bytes(), c.u(), c.u()))
            v["label"] = c.option(c.bytes)
            c.u(), c.u(), c.enum(4) == 3 and c.u()
            v["part"] = v["parts"] = 1
            if form == 2 or (form is None and c.at < len(body)):
                # Change id, coverage, versions that were thinned out.
                c.u(), c.u(), c.u()
                v["part"], v["parts"] = c.u(), c.u()
            found.append(v)
            at += 8 + size
        else:
            # Damaged: the next record that is sound, wherever it is.
            at += 1
            while at + 8 <= len(b) and not 45 <= number(b, at + 4, 4) <= len(b) - at - 8:
                at += 1
    return found


def read_purged(path, store):
    """When blobs were purged (section 22), by their ids. What cannot be read of it counts as missing."""
    try:
        with open(path, "rb") as f:
            b = f.read()
    except FileNotFoundError:
        return {}
    except OSError as e:
        say("what was purged is not known, and may be called lost: %s: %s" % (path, e))
        return {}
    if len(b) < 32:
        return {}
    if b[:8] != b"IZEPURGD" or number(b, 8, 4) != 1 or b[12:28] != store or zlib.crc32(b[:28]) != number(b, 28, 4):
        say("what was purged is not known, and may be called lost: %s has no header that this script knows" % path)
        return {}
    found, at, view = {}, 32, memoryview(b)
    while at + 8 <= len(b):
        size = number(b, at + 4, 4)
        record = tombstone(view, at, size, store) if size <= len(b) - at - 8 else None
        if record is None:
            # Damaged: the next record that is sound, wherever it is.
            at += 1
            continue
        found.update(record)
        at += 8 + size
    return found


def tombstone(view, at, size, store):
    """The blobs of a record of meta/purged, and when they were purged; None where there is none. The bytes behind damage are asked at every
    offset: only what has the form of a record is worth its checksum."""
    body = view[at + 8 : at + 8 + size]
    c = Body(body)
    try:
        time = c.time()
        c.bytes(), c.u()
        start = c.at
        count, rest = c.u(), size - c.at
        if not 33 * count <= rest <= 37 * count:
            return None
        check = zlib.crc32(store + at.to_bytes(8, "little") + size.to_bytes(8, "little"))
        if zlib.crc32(body, check) != number(view, at, 4):
            return None
        c.at = start
        return [(ident, time) for ident, _ in c.list(lambda: (c.id(), c.u()))]
    except Wrong:
        return None


# --- The log (sections 8 to 10) ------------------------------------------------------------------------------------------------------


def segments_of(directory):
    for name in sorted(n for n in listed(directory) if re.fullmatch("[0-9a-f]{16}[.]seg", n)):
        yield os.path.join(directory, name), int(name[:16], 16)


def records_above(directory, store, lsn):
    """Every record above `lsn`, in order, up to the first that is missing: (LSN, kind, version, body, path, offset of the body)."""
    files = list(segments_of(directory))
    expected, nothing = lsn + 1, True
    for place, (path, segment) in enumerate(files):
        with open(path, "rb") as f:
            b = f.read()
        prefix = store + segment.to_bytes(8, "little")
        if len(b) < 256 or b[:8] != b"IZEWAL\0\1" or zlib.crc32(b[:252]) != number(b, 252, 4) or b[32:48] != store:
            # Its records can be read all the same, if they follow.
            first = None
        elif number(b, 8, 4) != 1 or any(b[16:24]):
            sys.exit("%s is of a later format" % path)
        else:
            first = number(b, 64, 8)
        if first is not None and first > expected:
            # A jump of the numbers after a crash, or a segment that is gone.
            if not nothing or lsn:
                predecessor_end = number(b, 88, 8)
                if predecessor_end >= expected:
                    return lose("operations %d to %d" % (expected, first - 1), "their segment is missing or damaged; nothing behind them is used")
            expected = first
        at, x = 256, first
        while True:
            size = number(b, at + 4, 4)
            end = at + 32 + padded(size)
            sound = at + 32 <= len(b) and size <= 163840 and end <= len(b) and number(b, at + 8, 2) and not b[at + 11]
            sound = sound and zlib.crc32(prefix + at.to_bytes(8, "little") + b[at + 4 : end]) == number(b, at, 4)
            this = number(b, at + 16, 8)
            if sound and x in (None, this):
                x = this + 1
                if this >= expected:
                    if this > expected and first is None:
                        return lose("operations from %d on" % expected, "they are missing in the log")
                    expected, nothing = this + 1, False
                    yield this, number(b, at + 8, 2), b[at + 10], b[at + 32 : at + 32 + size], path, at + 32
                at = end
                continue
            footer = b[at : at + 128]
            ended = footer[:8] == b"IZEEND\0\1" and zlib.crc32(prefix + at.to_bytes(8, "little") + footer[:124]) == number(footer, 124, 4)
            if not ended and (x or 1) > lsn:
                last = place + 1 == len(files)
                if any(b[at:]):
                    what = "the end of the log" if last else "operations from %d on" % (x or expected)
                    lose(what, "%s, offset %d: no record that is sound; nothing behind it is used" % (path, at))
                    return
                if not last:
                    return lose("operations from %d on" % (x or expected), "%s ends without a footer" % path)
            elif not ended:
                expected = max(expected, lsn + 1)
            break


# --- The tree ------------------------------------------------------------------------------------------------------------------------


class Inode:
    __slots__ = ("kind", "mode", "uid", "gid", "rdev", "atime", "mtime", "xattrs", "size", "content", "children", "nlink")

    def __init__(self, kind, mode, uid, gid, rdev, time):
        self.kind, self.mode, self.uid, self.gid, self.rdev = kind, mode, uid, gid, rdev
        self.atime = self.mtime = time
        self.xattrs, self.size, self.nlink = {}, 0, 1
        # Of a file: pieces of the state until something changes, then extents. Of a link: its target.
        self.content = None
        self.children = {} if kind == DIRECTORY else None


class Extents:
    """Which bytes stand where: sorted (start, end, source, offset in the source); what is not there is zeros."""

    def __init__(self, pieces=()):
        self.list, at = [], 0
        for source, length in pieces:
            if source is not None:
                self.list.append((at, at + length, source, 0))
            at += length

    def cut(self, start, end):
        """Takes out what is between; gives the place."""
        i = bisect.bisect_right(self.list, (start,)) - 1
        i = max(i, 0)
        while i < len(self.list) and self.list[i][1] <= start:
            i += 1
        j, new = i, []
        while j < len(self.list) and self.list[j][0] < end:
            a, z, source, offset = self.list[j]
            if a < start:
                new.append((a, start, source, offset))
            if z > end:
                new.append((end, z, source, offset + end - a))
            j += 1
        self.list[i:j] = new
        return i + (1 if new and new[0][0] < start else 0)

    def put(self, start, length, source, offset=0):
        if length:
            i = self.cut(start, start + length)
            if source:
                self.list.insert(i, (start, start + length, source, offset))

    def part(self, start, end):
        for a, z, source, offset in self.list:
            if a < end and z > start:
                yield max(a, start), min(z, end), source, offset + max(start - a, 0)


class Tree:
    def __init__(self, packs):
        self.packs = packs
        self.inodes = {ROOT: Inode(DIRECTORY, 0o755, 0, 0, 0, 0)}

    # A state.

    def blob(self, ident, read, what):
        try:
            c = Body(self.packs.get(ident))
            return c.end(read(c))
        except NeedsZstd as e:
            self.packs.dump_all()
            lose(what, "blob %s: %s (and for all in %s: zstd -d %s/*.zst)" % (ident.hex(), e, self.packs.spare, self.packs.spare))
        except Wrong as e:
            lose(what, "blob %s: %s" % (ident.hex(), e))
        return None

    def load(self, root):
        state = self.blob(root, self.read_state, "the whole state")
        if state is None:
            return False
        node, table, height = state
        self.inodes = {ROOT: node}
        if table:
            self.load_table(table, height, 0)
        work = [(ROOT, b"")]
        while work:
            ino, path = work.pop()
            for name, child, node in self.entries_of(self.inodes[ino].content, path):
                if not name or len(name) > 255 or name in (b".", b"..") or b"/" in name or b"\0" in name:
                    lose("something in " + shown(path), "a name that no file can have")
                    continue
                at = path + b"/" + name if path else name
                if node is not None:
                    if child in self.inodes:
                        lose(shown(at), "inode %d stands in two places" % child)
                        continue
                    self.inodes[child] = node
                    if node.kind == DIRECTORY:
                        work.append((child, at))
                elif child not in self.inodes:
                    lose(shown(at), "its node is missing in the inode table")
                    continue
                self.inodes[ino].children[name] = child
            self.inodes[ino].content = None
        return True

    def entries_of(self, content, path):
        if not content:
            return []
        found = self.blob(content[1], self.read_directory, "directory %s and all in it" % (shown(path) or "/"))
        if found is None:
            return []
        pages, entries = found
        for page in pages:
            entries += self.blob(page, lambda c: c.list(lambda: self.read_entry(c)), "some of directory %s" % (shown(path) or "/")) or []
        return entries

    def load_table(self, ident, height, prefix):
        def read(c):
            if c.enum(2) == 0:
                return 0, c.list(lambda: (c.byte(), self.read_inode_entry(c)))
            return 1, c.list(lambda: (c.byte(), c.id()))

        found = self.blob(ident, read, "files with several names (part of the inode table)")
        for digit, what in found[1] if found else []:
            if found[0] == 0 and height == 0 and what is not None:
                self.inodes[prefix | digit] = what
            elif found[0] == 1 and height > 0:
                self.load_table(what, min(height, 7) - 1, prefix | digit << 8 * height)

    def read_state(self, c):
        if c.byte() not in (1, 2):
            raise Wrong("it is of a later format")
        return self.read_node(c), c.option(c.id), c.byte()

    def read_node(self, c):
        kind = c.enum(7)
        mode, uid, gid, rdev = c.u(), c.u(), c.u(), c.u()
        node = Inode(kind, mode, uid, gid, rdev, c.time())
        node.mtime = c.time()
        c.time(), c.time()
        node.xattrs = dict(c.list(lambda: (c.bytes(), c.bytes())))
        node.nlink, node.size, _ = c.u(), c.u(), c.u()
        content = c.enum(6)
        if content == 1:
            node.content = ("pieces", self.read_pieces(c))
        elif content in (2, 3):
            node.content = ("pages", c.id(), 0) if content == 2 else ("directory", c.id())
        elif content == 4:
            node.content = c.bytes()
        elif content == 5:
            node.content = ("pages", c.id(), c.byte())
        return node

    @staticmethod
    def read_pieces(c):
        return c.list(lambda: (c.id(), c.u()) if c.enum(2) == 0 else (None, c.u()))

    def read_entry(self, c):
        name, ino, _ = c.bytes(), c.u(), c.enum(7)
        return name, ino, c.option(lambda: self.read_node(c))

    def read_directory(self, c):
        if c.enum(2) == 0:
            return [], c.list(lambda: self.read_entry(c))
        return c.list(c.id), []

    def read_inode_entry(self, c):
        if c.enum(2) == 0:
            c.u()
            return None
        node = self.read_node(c)
        c.list(lambda: (c.u(), c.bytes()))
        return node

    def extents(self, node):
        """Of a regular file; where a page or list of its pieces cannot be read, they say so."""
        if not isinstance(node.content, Extents):
            pieces = []
            if node.content and node.content[0] == "pieces":
                pieces = [(ident and ("blob", ident), length) for ident, length in node.content[1]]
            elif node.content:
                pieces = self.pages(node.content[1], node.content[2], node.size)
            node.content = Extents(pieces)
        return node.content

    def pages(self, ident, height, size):
        """Sources and lengths in a page of pieces (height 0) or a list of pages, which holds so many bytes."""
        try:
            c = Body(self.packs.get(ident))
            if height == 0:
                return [(piece and ("blob", piece), length) for piece, length in c.end(self.read_pieces(c))]
            if height > 7:
                raise Wrong("its list of pages stands too high")
            below = c.end(c.list(lambda: (c.id(), c.u(), c.u())))
        except Wrong as e:
            return [(("lost", e), size)]
        return [piece for page, length, _ in below for piece in self.pages(page, height - 1, length)]

    # The operations of section 9, on top of it.

    def apply(self, kind, body, path, offset):
        c = Body(body)
        time = c.time()
        c.u(), c.u(), c.u(), c.option(c.u)
        inodes = self.inodes

        def enter(directory, name, ino):
            inodes[directory].children[name] = ino
            inodes[directory].mtime = time

        def leave(directory, name):
            inodes[directory].mtime = time
            return inodes[directory].children.pop(name)

        def lose_name(ino):
            # Nobody comes for it any more: no name leads there.
            inodes[ino].nlink -= 1

        if 0x10 <= kind <= 0x13:
            directory, name, ino = c.u(), c.bytes(), c.u()
            what = {0x10: FILE, 0x11: DIRECTORY, 0x13: SYMLINK}.get(kind)
            if kind == 0x12:
                what = c.enum(7)
            target = c.bytes() if kind == 0x13 else None
            mode = 0o777 if kind == 0x13 else c.u()
            uid, gid = c.u(), c.u()
            node = Inode(what, mode, uid, gid, c.u() if kind == 0x12 else 0, time)
            node.content = target
            inodes[ino] = node
            enter(directory, name, ino)
        elif kind == 0x14:
            ino, directory, name = c.u(), c.u(), c.bytes()
            inodes[ino].nlink += 1
            enter(directory, name, ino)
        elif kind in (0x15, 0x16):
            directory, name, ino = c.u(), c.bytes(), c.u()
            leave(directory, name)
            lose_name(ino)
        elif kind == 0x17:
            directory, name, ino, to_directory, to_name = c.u(), c.bytes(), c.u(), c.u(), c.bytes()
            how = c.enum(3)
            other = c.u() if how else None
            if how == 1:
                leave(to_directory, to_name)
                lose_name(other)
            leave(directory, name)
            enter(to_directory, to_name, ino)
            if how == 2:
                enter(directory, name, other)
        elif kind == 0x18:
            ino, at = c.u(), c.u()
            blob = c.id() if c.enum(2) else None
            length, node = c.u(), inodes[ino]
            after, mode = c.u(), c.option(c.u)
            source = ("blob", blob) if blob else ("log", path)
            self.extents(node).put(at, length, source, 0 if blob else offset + c.at)
            c.take(0 if blob else length)
            node.size, node.mtime = after, time
            node.mode = node.mode if mode is None else mode
        elif kind == 0x19:
            node, _, size, mode = inodes[c.u()], c.u(), c.u(), c.option(c.u)
            self.extents(node).cut(size, 1 << 64)
            node.size, node.mtime = size, time
            node.mode = node.mode if mode is None else mode
        elif kind == 0x1A:
            node, how, at, length, after = inodes[c.u()], c.enum(3), c.u(), c.u(), c.u()
            if how:
                self.extents(node).put(at, max(min(at + length, after) - at, 0), None)
            node.size, node.mtime = after, time
        elif kind == 0x1B:
            source, start, node, at, length = inodes[c.u()], c.u(), inodes[c.u()], c.u(), c.u()
            after, mode = c.u(), c.option(c.u)
            parts = list(self.extents(source).part(start, start + length))
            self.extents(node).put(at, length, None)
            for a, z, what, where in parts:
                node.content.put(at + a - start, z - a, what, where)
            node.size, node.mtime = after, time
            node.mode = node.mode if mode is None else mode
        elif kind == 0x1C:
            node, _ = inodes[c.u()], c.u()
            node.mode = c.u()
        elif kind == 0x1D:
            node, _, _ = inodes[c.u()], c.u(), c.u()
            node.uid, node.gid, mode = c.u(), c.u(), c.option(c.u)
            node.mode = node.mode if mode is None else mode
        elif kind == 0x1E:
            node, _, _ = inodes[c.u()], c.time(), c.time()
            atime, mtime = c.option(c.time), c.option(c.time)
            node.atime = node.atime if atime is None else atime
            node.mtime = node.mtime if mtime is None else mtime
        elif kind == 0x1F:
            node, name = inodes[c.u()], c.bytes()
            node.xattrs[name] = c.bytes()
        elif kind == 0x20:
            inodes[c.u()].xattrs.pop(c.bytes(), None)
        elif kind == 0x21:
            inodes.pop(c.u(), None)
        elif kind == 0x30:
            return
        c.end(None)

    # Out.

    def bytes_of(self, source, offset, length):
        if source[0] == "lost":
            raise source[1]
        if source[0] == "blob":
            b = self.packs.get(source[1])[offset : offset + length]
        else:
            with open(source[1], "rb") as f:
                f.seek(offset)
                b = f.read(length)
        if len(b) != length:
            raise Wrong("its bytes are cut short")
        return b

    def write_file(self, node, path, out):
        """Gives what is wrong with its bytes, and whether that is only that some were purged."""
        troubles, purged = [], True
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(fd, node.size)
            for a, z, source, offset in self.extents(node).part(0, node.size):
                try:
                    b, done = self.bytes_of(source, offset, z - a), 0
                    while done < len(b):
                        done += os.pwrite(fd, b[done:], a + done)
                except Wrong as e:
                    troubles.append("bytes %d to %d: %s" % (a, z - 1, e))
                    purged = purged and isinstance(e, Purged)
        finally:
            os.close(fd)
        return troubles, purged

    def write(self, out):
        links, purged, count, directories = {}, set(), 0, []
        work, seen = [(ROOT, b"")], set()
        while work:
            ino, rel = work.pop()
            if ino in seen:
                lose(shown(rel), "directory %d is inside itself" % ino)
                continue
            seen.add(ino)
            directories.append((os.path.join(out, rel) if rel else out, self.inodes[ino], rel))
            for name, child in sorted(self.inodes[ino].children.items()):
                at = rel + b"/" + name if rel else name
                path, node = os.path.join(out, at), self.inodes.get(child)
                try:
                    if node is None:
                        raise Wrong("its inode %d is missing" % child)
                    if node.kind == DIRECTORY:
                        os.mkdir(path, 0o700)
                        work.append((child, at))
                    elif child in links:
                        if links[child]:
                            os.link(links[child], path, follow_symlinks=False)
                        else:
                            tell = tell_purged if child in purged else lose
                            tell(shown(at), "another name of a file of which bytes are gone")
                    else:
                        told = len(PURGED)
                        links[child] = path if self.write_one(node, path, at, out) else None
                        if len(PURGED) > told:
                            purged.add(child)
                    count += 1
                except (OSError, Wrong) as e:
                    lose(shown(at), e)
        # From the innermost out: what is put into a directory changes its times.
        for path, node, rel in reversed(directories):
            self.dress(node, path, rel)
        return count

    def write_one(self, node, path, at, out):
        if node.kind == FILE:
            troubles, purged = self.write_file(node, path, out)
            if troubles:
                aside = out + b".damaged"
                os.makedirs(aside, exist_ok=True)
                kept = os.path.join(aside, b"%d-%s" % (len(os.listdir(aside)) + 1, os.path.basename(path)[:200]))
                os.rename(path, kept)
                tell = tell_purged if purged else lose
                tell(shown(at), "%s; the rest is in %s" % ("; ".join(troubles), shown(kept)))
                return False
        elif node.kind == SYMLINK:
            os.symlink(node.content or b"", path)
        elif node.kind == FIFO:
            os.mkfifo(path, 0o600)
        else:
            form = {CHAR: stat.S_IFCHR, BLOCK: stat.S_IFBLK, SOCKET: stat.S_IFSOCK}[node.kind]
            major, minor = (node.rdev >> 8) & 0xFFF, (node.rdev & 0xFF) | (node.rdev >> 12) & 0xFFF00
            os.mknod(path, form | 0o600, os.makedev(major, minor) if node.kind != SOCKET else 0)
        self.dress(node, path, at)
        return True

    def dress(self, node, path, at):
        """Owner, mode, extended attributes, times; what is not allowed is said and no loss of bytes."""
        link = node.kind == SYMLINK
        try:
            os.chown(path, node.uid, node.gid, follow_symlinks=False)
        except OSError as e:
            if (node.uid, node.gid) != (os.geteuid(), os.getegid()):
                say("not kept: owner %d:%d of %s: %s" % (node.uid, node.gid, shown(at) or "/", e.strerror))
        for name, value in node.xattrs.items():
            try:
                os.setxattr(path, name, value, follow_symlinks=False)
            except OSError as e:
                say("not kept: attribute %s of %s: %s" % (shown(name), shown(at) or "/", e.strerror))
        try:
            if not link:
                os.chmod(path, node.mode)
            os.utime(path, ns=(node.atime, node.mtime), follow_symlinks=False)
        except (OSError, OverflowError) as e:
            say("not kept: mode or times of %s: %s" % (shown(at) or "/", e))


# --- All of it -----------------------------------------------------------------------------------------------------------------------


def listed(directory):
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def store_id(project):
    """From whatever file says it."""
    for path, _ in segments_of(os.path.join(project, "wal")):
        with open(path, "rb") as f:
            b = f.read(256)
        if len(b) == 256 and b[:8] == b"IZEWAL\0\1" and zlib.crc32(b[:252]) == number(b, 252, 4):
            return b[32:48]
    for name in sorted(listed(os.path.join(project, "blobs"))):
        if re.fullmatch("[0-9a-f]{16}[.]pack", name):
            with open(os.path.join(project, "blobs", name), "rb") as f:
                b = f.read(64)
            if len(b) == 64 and b[:8] == b"izepack\0" and zlib.crc32(b[:60]) == number(b, 60, 4):
                return b[16:32]
    try:
        with open(os.path.join(project, "meta", "project.toml"), encoding="utf-8", errors="replace") as f:
            found = re.search(r'^id *= *"([0-9a-f-]{36})"', f.read(), re.M)
        if found:
            return bytes.fromhex(found.group(1).replace("-", ""))
    except OSError:
        pass
    return None


def main(words):
    version, only_list = None, False
    if "--list" in words:
        only_list = True
        words.remove("--list")
    if "--version" in words:
        at = words.index("--version")
        if not (at + 1 < len(words) and words[at + 1].isdigit()):
            sys.exit(__doc__)
        version = int(words[at + 1])
        del words[at : at + 2]
    if len(words) != (1 if only_list else 2) or any(w.startswith("-") for w in words):
        print(__doc__, file=sys.stderr)
        return 2
    project = words[0]
    store = store_id(project)
    if store is None:
        say("there is no store in %s: no sound segment, no pack, no meta/project.toml" % project)
        return 3
    versions = read_versions(os.path.join(project, "meta", "versions"), store)
    checkpoint = read_checkpoint(os.path.join(project, "meta", "checkpoint"), store)
    if only_list:
        for v in versions:
            print("version %d  %s  operations up to @%x  %d paths  %s" % (v["seq"], day(v["end"]), v["last"], v["paths"], shown(v["label"] or b"")))
        return 0
    out = os.fsencode(words[1].rstrip("/") or "/")
    if os.path.lexists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        say("%s is there already, and not empty" % shown(out))
        return 2
    os.makedirs(out, mode=0o700, exist_ok=True)
    if os.path.exists(os.path.join(project, "meta", "purge")):
        say("a purge was interrupted: what it takes away may be among what comes out")
    purged = read_purged(os.path.join(project, "meta", "purged"), store)
    packs = Packs(os.path.join(project, "blobs"), store, shown(out) + ".zst", purged)
    tree = Tree(packs)
    replay = version is None
    if version is not None:
        found = [v for v in versions if v["seq"] == version]
        if not found:
            say("there is no version %d (or its record is damaged); --list names those that there are" % version)
            return 3
        lsn, root = found[0]["last"], found[0]["root"]
    elif checkpoint:
        lsn, root = checkpoint
    elif any(v["part"] == v["parts"] for v in versions):
        # The state of an earlier part of a window is none that the log goes on from.
        newest = [v for v in versions if v["part"] == v["parts"]][-1]
        lsn, root = newest["last"], newest["root"]
        lose("the checkpoint", "it is damaged; version %d is taken for the newest" % newest["seq"])
    else:
        lsn, root = 0, None
        lose("the checkpoint", "it is damaged, and there is no version; only the log is read")
    if root and not tree.load(root):
        return 1
    operations = 0
    if replay:
        # A state of which parts are lost takes what still fits.
        for this, kind, form, body, path, offset in records_above(os.path.join(project, "wal"), store, lsn):
            if kind >= 0x8000 or kind == 2:
                continue
            if form != 1 or not (0x10 <= kind <= 0x21 or kind == 0x30):
                lose("operations from %d on" % this, "kind %#x, version %d is not known to this script" % (kind, form))
                break
            try:
                tree.apply(kind, body, path, offset)
                operations += 1
            except (Wrong, KeyError, AttributeError) as e:
                lose("operation %d" % this, "it does not fit what is there (%s)" % (e if isinstance(e, Wrong) else "missing %s" % e))
    count = tree.write(out)
    say("%d names are in %s; %d operations of the log above the last version" % (count, shown(out), operations))
    say("hashes were %s" % ("verified" if blake3 else "not verified (there is no module blake3); every CRC was"))
    if packs.dumped:
        say("compressed bytes are in %s; run: zstd -d %s/*.zst; then run this again with an empty OUT" % (packs.spare, packs.spare))
    if PURGED:
        say("%d files lack bytes that were purged on purpose; they are named above" % len(PURGED))
    if LOST:
        say("%d things are missing; they are named above" % len(LOST))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
