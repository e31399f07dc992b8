"""Probes: listings, and what is left."""
from kit import *  # noqa: F403: every probe uses a part of it


class Dir(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_ulong), ('off', ctypes.c_long), ('len', ctypes.c_ushort), ('type', ctypes.c_ubyte), ('name', ctypes.c_char * 256)]


libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long


class Reader:
    def __init__(self, path):
        self.dir = ctypes.c_void_p(libc.opendir(os.fsencode(path)))

    def next(self):
        entry = libc.readdir(self.dir)
        return ctypes.cast(entry, ctypes.POINTER(Dir)).contents.name.decode() if entry else None

    def rest(self):
        return list(iter(self.next, None))

    def tell(self):
        return libc.telldir(self.dir)

    def seek(self, at):
        libc.seekdir(self.dir, ctypes.c_long(at))

    def rewind(self):
        libc.rewinddir(self.dir)

    def close(self):
        libc.closedir(self.dir)


@probe
def directory_offsets(d):
    """telldir and seekdir come back to the same place although entries come and go."""
    for i in range(3000):
        put(f'{d}/e{i:04}')
    r = Reader(d)
    first = [r.next() for _ in range(1500)]
    at = r.tell()
    ahead = [n for n in (r.next() for _ in range(500)) if n[0] == 'e']
    for name in first[2:1000]:
        os.unlink(f'{d}/{name}')
    for i in range(500):
        put(f'{d}/new{i}')
    r.seek(at)
    rest = [n for n in r.rest() if n[0] == 'e']
    again, seen = rest[:len(ahead)], {n for n in first + rest if n[0] == 'e'}
    r.rewind()
    now = r.rest()
    r.close()
    return again == ahead, len(seen) == 3000, sorted(now) == sorted(os.listdir(d) + ['.', '..'])


@probe
def a_large_directory(d):
    count = int(os.environ.get('IZE_TEST_ENTRIES', '4000'))
    for i in range(count):
        os.close(os.open(f'{d}/{i:06}', os.O_CREAT | os.O_WRONLY))
    r, seen = Reader(d), []
    # Every second one goes as it is read, and a new one comes.
    while (name := r.next()) is not None:
        if name[0] != '.':
            seen.append(name)
            if len(seen) % 2:
                os.unlink(f'{d}/{name}')
            if len(seen) % 10 == 0:
                os.close(os.open(f'{d}/n{len(seen)}', os.O_CREAT | os.O_WRONLY))
    r.close()
    old = [n for n in seen if n[0] != 'n']
    out = [len(old) == len(set(old)) == count, len(seen) == len(set(seen)), e(os.rmdir, d)]
    return out + [subprocess.run(['rm', '-rf', d]).returncode, os.path.exists(d)]


@probe
def readers_that_change_what_they_read(d):
    """Each entry gets a copy or another name as it is read: the reader comes to an end and misses nothing."""
    for i in range(500):
        put(f'{d}/f{i}')
    r, seen = Reader(d), []
    while (name := r.next()) is not None and len(seen) < 5000:
        seen.append(name)
        if name[0] != '.':
            put(f'{d}/{name}.bak' if len(name) < 200 else f'{d}/x{len(seen)}')
    r.close()
    out = [len(seen) < 5000, {f'f{i}' for i in range(500)} <= set(seen)]
    r, seen = Reader(d), []
    while (name := r.next()) is not None and len(seen) < 9000:
        seen.append(name)
        if name[0] == 'f' and len(name) < 200:
            os.rename(f'{d}/{name}', f'{d}/{name}+')
    r.close()
    return out + [len(seen) < 9000, all(n.endswith('+') or n in '..' for n in os.listdir(d))]


@probe
def listing_kinds_and_numbers(d):
    put(f'{d}/f'), os.mkdir(f'{d}/d'), os.symlink('f', f'{d}/s'), os.mkfifo(f'{d}/p')
    out = sorted((x.name, x.is_file(follow_symlinks=False), x.is_dir(follow_symlinks=False), x.is_symlink(), x.inode() == os.lstat(x.path).st_ino) for x in os.scandir(d))
    r = Reader(f'{d}/d')
    names = r.rest()
    r.close()
    return out, names[:2], e(os.listdir, f'{d}/f'), e(os.scandir, f'{d}/none'), os.stat(f'{d}/d/..').st_ino == os.stat(d).st_ino, os.stat(f'{d}/d/.').st_ino == os.stat(f'{d}/d').st_ino


@probe
def file_system_figures(d):
    s = os.statvfs(d)
    return s.f_namemax, s.f_bsize, s.f_blocks >= s.f_bfree >= s.f_bavail > 0, s.f_files >= s.f_ffree > 0, os.pathconf(d, 'PC_NAME_MAX'), os.pathconf(d, 'PC_PATH_MAX')


@probe
def syncing(d):
    fd, at = rw(f'{d}/f'), os.open(d, os.O_RDONLY)
    os.write(fd, b'x')
    out = [os.fsync(fd), os.fdatasync(fd), os.fsync(at), os.fdatasync(at), c(libc.sync_file_range(fd, ctypes.c_long(0), ctypes.c_long(0), 7)), c(libc.syncfs(fd)), e(ok, os.posix_fadvise, fd, 0, 0, os.POSIX_FADV_DONTNEED)]
    ro = os.open(f'{d}/f', os.O_RDONLY)
    return out + [e(os.fsync, ro), os.close(fd), os.close(at), os.close(ro)]


@probe
def other_requests(d):
    fd = rw(f'{d}/f')
    clone = lambda: fcntl.ioctl(rw(f'{d}/g'), 0x40049409, fd)
    version = lambda: fcntl.ioctl(fd, 0x5401, b'\0' * 64)
    return e(clone), e(version), e(os.open, f'{d}/f/', os.O_RDONLY), os.isatty(fd), os.close(fd)
