"""What probes are made of: calls whose errors become names, users, and what moved."""
import ctypes, errno, fcntl, mmap, os, resource, shutil, signal, stat, struct, subprocess, sys, time

libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP, PUNCH, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32
ALICE, BOB = (1234, 1234), (1235, 1235)
PROBES = []


def probe(f):
    PROBES.append(f)
    return f


def name_of(e):
    return errno.errorcode.get(e, str(e))


def e(f, *args, **kw):
    """The result, or the name of the errno."""
    try:
        return f(*args, **kw)
    except OSError as error:
        return name_of(error.errno)


def c(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def renameat2(a, b, flags):
    c(libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), flags))
    return 'ok'


def fallocate(fd, mode, offset, length):
    c(libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))
    return 'ok'


def ok(f, *args, **kw):
    f(*args, **kw)
    return 'ok'


def put(path, data=b'', mode=0o644):
    with open(path, 'wb') as file:
        file.write(data)
    os.chmod(path, mode)
    return path


def get(path):
    with open(path, 'rb') as file:
        return file.read()


def rw(path, flags=0):
    return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)


def mode(path):
    return oct(os.lstat(path).st_mode & 0o7777)


def links(path):
    return os.lstat(path).st_nlink


def changed(path, f, *args):
    """Which times of `path` the call moves."""
    before = os.lstat(path)
    time.sleep(0.012)
    result = e(f, *args)
    after = os.lstat(path)
    moved = ''.join(t for t in 'amc' if getattr(before, f'st_{t}time_ns') != getattr(after, f'st_{t}time_ns'))
    return moved or '-' if not isinstance(result, str) or result == 'ok' else f'{result} {moved or "-"}'


def as_user(who, f, *args, groups=()):
    """The result of the call in a child with another user and groups and no privileges."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(list(groups))
            os.setresgid(who[1], who[1], who[1])
            os.setresuid(who[0], who[0], who[0])
            os.umask(0o022)
            said = repr(e(f, *args))
        except BaseException as error:
            said = repr(error)
        os.write(w, said.encode())
        os._exit(0)
    os.close(w)
    with os.fdopen(r, 'rb') as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said.strip("'")


def holes(path, size=None):
    """The data ranges of a file."""
    fd = os.open(path, os.O_RDONLY)
    out, at = [], 0
    try:
        while True:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
            out.append((start, at))
    except OSError as error:
        out.append(name_of(error.errno))
    os.close(fd)
    return out
