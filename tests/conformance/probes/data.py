"""Probes: the bytes of files."""
from kit import *  # noqa: F403: every probe uses a part of it


@probe
def open_flags(d):
    put(f'{d}/f', b'0123456789')
    out = []
    fd = rw(f'{d}/f', os.O_APPEND)
    os.lseek(fd, 0, 0), os.write(fd, b'ab'), os.pwrite(fd, b'cd', 1)
    out += [get(f'{d}/f'), os.lseek(fd, 0, os.SEEK_CUR)]
    os.truncate(f'{d}/f', 3), os.write(fd, b'ef')
    out += [get(f'{d}/f'), changed(f'{d}/f', lambda: os.close(rw(f'{d}/f', os.O_TRUNC))), os.stat(f'{d}/f').st_size, changed(f'{d}/f', lambda: os.close(rw(f'{d}/f', os.O_TRUNC)))]
    os.write(fd, b'gh')
    os.close(fd)
    out += [get(f'{d}/f'), e(os.open, f'{d}/f', os.O_CREAT | os.O_EXCL), e(os.open, f'{d}/f', os.O_DIRECTORY)]
    for flag in (os.O_SYNC, os.O_DSYNC):
        fd = rw(f'{d}/f', flag)
        out += [os.write(fd, b'sync'), os.pwrite(fd, b's', 0), e(fallocate, fd, 0, 0, 10), e(os.ftruncate, fd, 4)]
        os.close(fd)
    return out + [get(f'{d}/f')]


@probe
def temporary_files_without_a_name(d):
    return e(ok, os.open, d, os.O_TMPFILE | os.O_RDWR)


@probe
def direct_io(d):
    """O_DIRECT beside the page cache and a mapping."""
    put(f'{d}/f', b'a' * 16384)
    fd, cached = os.open(f'{d}/f', os.O_RDWR | os.O_DIRECT), rw(f'{d}/f')
    page = mmap.mmap(-1, 8192)
    page.write(b'b' * 8192)
    out = [os.pread(cached, 3, 4095), os.pwritev(fd, [page], 4096), os.pread(cached, 3, 4095), os.pread(cached, 3, 12287)]
    os.pwrite(cached, b'c' * 10, 4090)
    out += [os.preadv(fd, [page], 0), bytes(page[4088:4102])]
    with mmap.mmap(cached, 16384) as m:
        m[0:4] = b'mmap'
        m.flush()
        out += [os.preadv(fd, [page], 0), page[:6], os.pwritev(fd, [page], 8192), m[8192:8198]]
    end = os.open(f'{d}/f', os.O_WRONLY | os.O_DIRECT | os.O_APPEND)
    out += [os.writev(end, [page]), os.stat(f'{d}/f').st_size, os.preadv(fd, [page], 20480), os.preadv(fd, [page], 24576)]
    os.close(fd), os.close(cached), os.close(end)
    return out


@probe
def truncation(d):
    path = put(f'{d}/f', b'x' * 10000)
    out = []
    for size in (20000, 5000, 5000, 15000, 0, 1 << 40, 7, 4096):
        before = os.stat(path).st_size
        out.append((size, os.truncate(path, size), os.stat(path).st_size, get(path)[:10] if size < 1 << 20 else None, before))
    put(path, b'x' * 5000)
    os.truncate(path, 4000), os.truncate(path, 5000)
    out += [get(path)[3998:4002], changed(path, os.truncate, path, 6000), changed(path, os.truncate, path, 10)]
    fd = os.open(path, os.O_RDONLY)
    out += [e(os.ftruncate, fd, 5), e(os.truncate, path, -1), e(os.truncate, d, 0), e(os.truncate, f'{d}/none', 0), e(os.truncate, path, (1 << 63) - 1) in (None, 'EFBIG')]
    os.close(fd)
    return out


@probe
def allocation(d):
    path = put(f'{d}/f', b'x' * 20000)
    fd = rw(path)
    size = lambda: os.fstat(fd).st_size
    out = [e(fallocate, fd, 0, 0, 30000), size(), get(path)[19999:20001], e(fallocate, fd, KEEP, 0, 100000), size()]
    out += [e(fallocate, fd, PUNCH | KEEP, 4096, 8192), size(), get(path)[4095:4097], get(path)[12287:12289], e(fallocate, fd, PUNCH, 0, 10), e(fallocate, fd, PUNCH | KEEP, 25000, 100000), size()]
    out += [e(fallocate, fd, PUNCH | KEEP, 100, 50), get(path)[99:101], get(path)[149:151], e(fallocate, fd, ZERO, 200, 10), get(path)[199:201], e(fallocate, fd, ZERO, 29000, 5000), size()]
    out += [e(fallocate, fd, ZERO | KEEP, 33000, 50000), size(), e(fallocate, fd, 0, 0, 0), e(fallocate, fd, 0, -1, 5), e(fallocate, fd, 0, 5, -1)]
    out += [e(os.posix_fallocate, fd, 40000, 1000), size(), e(fallocate, fd, ZERO | PUNCH | KEEP, 0, 10), e(fallocate, fd, 1 << 20, 0, 10)]
    out += [(n, changed(path, fallocate, fd, m, o, l)) for n, m, o, l in [('punch', PUNCH | KEEP, 0, 4096), ('zero', ZERO, 0, 4096), ('grow', 0, 0, 50000)]]
    ro = os.open(path, os.O_RDONLY)
    out += [e(fallocate, ro, 0, 0, 10), e(fallocate, os.open(d, os.O_RDONLY), 0, 0, 10)]
    r, w = os.pipe()
    out.append(e(fallocate, w, 0, 0, 10))
    os.close(fd), os.close(ro)
    return out


@probe
def allocation_inside_moves_times(d):
    path = put(f'{d}/f', b'x' * 20000)
    fd = rw(path)
    return [changed(path, fallocate, fd, m, o, l) for m, o, l in [(0, 0, 100), (KEEP, 0, 100), (KEEP, 30000, 100), (PUNCH | KEEP, 40000, 100)]], os.close(fd)


@probe
def collapse_and_insert(d):
    fd = rw(put(f'{d}/f', b'x' * 20480))
    return e(fallocate, fd, COLLAPSE, 0, 4096), e(fallocate, fd, INSERT, 0, 4096), os.close(fd)


@probe
def seek_holes(d):
    path = f'{d}/f'
    fd = rw(path)
    out = [e(os.lseek, fd, 0, os.SEEK_DATA), e(os.lseek, fd, 0, os.SEEK_HOLE)]
    os.ftruncate(fd, 1 << 20)
    out.append(holes(path))
    os.pwrite(fd, b'x' * 8192, 65536), os.pwrite(fd, b'y' * 4096, 262144)
    os.fsync(fd)
    out += [holes(path), e(os.lseek, fd, 70000, os.SEEK_DATA), e(os.lseek, fd, 70000, os.SEEK_HOLE), e(os.lseek, fd, 1 << 20, os.SEEK_DATA), e(os.lseek, fd, 1 << 20, os.SEEK_HOLE), e(os.lseek, fd, -1, os.SEEK_DATA), e(os.lseek, fd, -1, os.SEEK_HOLE)]
    fallocate(fd, PUNCH | KEEP, 65536, 4096)
    out.append(holes(path))
    os.ftruncate(fd, 262144 + 4096)
    out.append(holes(path))
    os.close(fd)
    return out


@probe
def sparse_terabyte(d):
    fd = rw(f'{d}/f')
    os.ftruncate(fd, 1 << 40)
    os.pwrite(fd, b'end', (1 << 40) - 3), os.pwrite(fd, b'middle', 1 << 39)
    s = os.fstat(fd)
    out = [s.st_size, s.st_blocks < 100, os.pread(fd, 6, 1 << 39), os.pread(fd, 10, (1 << 40) - 5), holes(f'{d}/f')[0][0], os.lseek(fd, 4096, os.SEEK_HOLE)]
    os.ftruncate(fd, (1 << 39) + 3)
    os.ftruncate(fd, 1 << 40)
    out += [os.pread(fd, 6, 1 << 39), os.pread(fd, 3, (1 << 40) - 3), os.fsync(fd)]
    os.close(fd)
    return out


@probe
def blocks(d):
    path = f'{d}/f'
    fd = rw(path)
    out = [os.fstat(fd).st_blocks]
    os.pwrite(fd, b'x' * 65536, 0), os.fsync(fd)
    out.append(os.fstat(fd).st_blocks)
    os.pwrite(fd, b'x' * 65536, 32768), os.fsync(fd)
    out.append(os.fstat(fd).st_blocks)
    fallocate(fd, PUNCH | KEEP, 4096, 8192)
    out.append(os.fstat(fd).st_blocks)
    os.ftruncate(fd, 8192)
    out.append(os.fstat(fd).st_blocks)
    os.pwrite(fd, b'x' * 4096, 1 << 20), os.fsync(fd)
    out += [os.fstat(fd).st_blocks, os.fstat(fd).st_blksize]
    os.close(fd)
    return out


@probe
def copy_ranges(d):
    a, b = rw(put(f'{d}/a', bytes(range(256)) * 256)), rw(f'{d}/b')
    copy = lambda *args: e(os.copy_file_range, *args)
    out = [copy(a, b, 65536, 0, 0), get(f'{d}/a') == get(f'{d}/b'), copy(a, b, 100, 65500, 10), copy(a, b, 100, 65536, 10), copy(a, b, 100, 99999, 10), os.fstat(b).st_size]
    out += [copy(a, b, 1000, 100, 70000), os.fstat(b).st_size, os.pread(b, 5, 65534), os.pread(b, 4, 70000), copy(a, a, 100, 0, 50), copy(a, a, 100, 0, 100), copy(a, a, 100, 0, 65536), os.fstat(a).st_size, copy(a, a, 10, 65530, 65535)]
    os.lseek(a, 10, 0), os.lseek(b, 0, 0)
    out += [copy(a, b, 5), os.lseek(a, 0, 1), os.lseek(b, 0, 1), os.pread(b, 5, 0), changed(f'{d}/b', os.copy_file_range, a, b, 5, 0, 0), changed(f'{d}/a', os.copy_file_range, a, b, 5, 0, 0)]
    ap, ro = os.open(f'{d}/b', os.O_WRONLY | os.O_APPEND), os.open(f'{d}/b', os.O_RDONLY)
    out += [copy(a, ap, 5, 0, 0), copy(a, ro, 5, 0, 0), copy(ap, b, 5, 0, 0), copy(a, os.open(d, os.O_RDONLY), 5), copy(os.open(d, os.O_RDONLY), b, 5), copy(a, b, 0, 0, 0)]
    # A source with a hole, and one that was written and not synced.
    os.ftruncate(a, 1 << 20), os.pwrite(a, b'tail', (1 << 20) - 4)
    out += [copy(a, b, 1 << 20, 0, 1 << 20), os.pread(b, 10, (1 << 21) - 6), os.pread(b, 4, (1 << 20) + 70000 * 5)]
    os.pwrite(a, b'changed', 0)
    out += [os.pread(b, 7, 1 << 20), os.pread(a, 7, 0)]
    return out, os.close(a), os.close(b)


@probe
def unlinked_but_open(d):
    fd = rw(f'{d}/f')
    os.write(fd, b'here')
    os.unlink(f'{d}/f')
    os.pwrite(fd, b'still', 4), os.fchmod(fd, 0o600), os.fsetxattr(fd, 'user.x', b'1') if hasattr(os, 'fsetxattr') else os.setxattr(fd, 'user.x', b'1')
    fallocate(fd, PUNCH | KEEP, 0, 2), os.ftruncate(fd, 8)
    s = os.fstat(fd)
    out = [os.pread(fd, 99, 0), s.st_nlink, oct(s.st_mode), s.st_size, os.getxattr(fd, 'user.x'), os.fsync(fd), os.listdir(d)]
    put(f'{d}/f', b'another')
    out += [os.pread(fd, 99, 0), get(f'{d}/f'), e(os.link, f'/proc/self/fd/{fd}', f'{d}/back', follow_symlinks=True)]
    # Replaced by a rename while open.
    g = rw(put(f'{d}/g', b'g'))
    os.rename(f'{d}/f', f'{d}/g')
    out += [os.pread(g, 9, 0), os.fstat(g).st_nlink, get(f'{d}/g')]
    return out, os.close(fd), os.close(g)


@probe
def size_limits(d):
    fd = rw(f'{d}/f')
    top = (1 << 63) - 1
    out = [e(os.pwrite, fd, b'x', -1), e(os.ftruncate, fd, 1 << 63) if False else None]
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        own = rw(f'{d}/limited')
        return e(os.write, own, b'x' * 20000), e(os.write, own, b'x'), e(os.ftruncate, own, 20000), e(fallocate, own, 0, 0, 20000), os.fstat(own).st_size, e(os.copy_file_range, own, own, 10, 0, 10000), e(os.pwrite, own, b'y', 9999)
    os.chmod(d, 0o777)
    out.append(as_user(ALICE, limited))
    def killed():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        os.truncate(f'{d}/limited', 200)
    out.append(as_user(ALICE, lambda: subprocess.run(['sh', '-c', f'ulimit -f 1; exec head -c 5000 /dev/zero >{d}/killed']).returncode))
    os.close(fd)
    return out


@probe
def largest_offsets(d):
    fd = rw(f'{d}/f')
    return [e(os.pwrite, fd, b'xy', o) for o in ((1 << 63) - 1, (1 << 63) - 2)], [e(os.ftruncate, fd, s) for s in ((1 << 63) - 1,)], os.fstat(fd).st_size, e(os.pwrite, fd, b'x', (1 << 63) - 2), e(fallocate, fd, 0, (1 << 63) - 5, 10), os.close(fd)


@probe
def shared_mappings(d):
    path = put(f'{d}/f', b'a' * 8192)
    fd, other = rw(path), rw(path)
    out = []
    with mmap.mmap(fd, 8192) as m, mmap.mmap(other, 8192) as n:
        m[10:14] = b'mine'
        out += [n[10:14], os.pread(other, 4, 10)]
        os.pwrite(other, b'theirs', 4094)
        out += [m[4092:4102]]
        m[0:1] = b'z'
        m.flush()
        out += [get(path)[:1]]
        os.ftruncate(fd, 4096)
        os.ftruncate(fd, 8192)
        out += [m[4096:4100], os.pread(fd, 4, 4094)]
    with mmap.mmap(fd, 8192, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE) as m:
        m[0:7] = b'private'
        out += [get(path)[:7]]
    # Bytes behind the end on the last page are nobody's.
    os.ftruncate(fd, 100)
    with mmap.mmap(fd, 100) as m:
        m[99:100] = b'!'
        m.flush()
    os.ftruncate(fd, 200)
    out += [get(path)[98:104], os.close(fd)]
    child = os.fork()
    if child == 0:
        small = mmap.mmap(other, 4096) if os.fstat(other).st_size >= 4096 else None
        os._exit(0 if small is None else 1)
    out += [os.waitpid(child, 0)[1]]
    ro = os.open(path, os.O_RDONLY)
    try:
        mmap.mmap(ro, 100)
    except (OSError, PermissionError) as error:
        out.append(name_of(error.errno))
    return out, os.close(ro), os.close(other)


@probe
def locks(d):
    path = put(f'{d}/f', b'x' * 100)
    def other(f):
        r, w = os.pipe()
        if os.fork() == 0:
            os.write(w, repr(e(f)).encode())
            os._exit(0)
        os.close(w)
        said = os.read(r, 100).decode()
        os.wait()
        return said
    a = rw(path)
    lock = lambda how, start=0, length=0: e(fcntl.lockf, rw(path), how | fcntl.LOCK_NB, length, start)
    flock = lambda how: e(fcntl.flock, rw(path), how | fcntl.LOCK_NB)
    fcntl.lockf(a, fcntl.LOCK_EX, 50, 0)
    out = [other(lambda: lock(fcntl.LOCK_EX, 0, 10)), other(lambda: lock(fcntl.LOCK_EX, 50, 10)), other(lambda: lock(fcntl.LOCK_SH, 49, 1))]
    fcntl.lockf(a, fcntl.LOCK_UN)
    out += [other(lambda: lock(fcntl.LOCK_EX))]
    fcntl.flock(a, fcntl.LOCK_SH)
    out += [other(lambda: flock(fcntl.LOCK_SH)), other(lambda: flock(fcntl.LOCK_EX))]
    ofd = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 10, 0)
    b = rw(path)
    out += [e(lambda: len(fcntl.fcntl(a, 37, ofd))), e(lambda: len(fcntl.fcntl(b, 37, ofd)))]
    os.close(a)
    return out + [other(lambda: flock(fcntl.LOCK_EX)), e(lambda: len(fcntl.fcntl(b, 37, ofd))), os.close(b)]
