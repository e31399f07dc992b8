"""Probes: times and extended attributes."""
from kit import *  # noqa: F403: every probe uses a part of it


@probe
def times_to_the_nanosecond(d):
    path = put(f'{d}/f')
    out = []
    for atime, mtime in [(1, 2), (-1, -999999999), (1700000000123456789, 1600000000987654321), (2147483647999999999, 4294967295000000001), (-2147483648000000000, 0)]:
        os.utime(path, ns=(atime, mtime))
        s = os.stat(path)
        out.append((s.st_atime_ns, s.st_mtime_ns))
    NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
    def utimens(a, m, where=path, flags=0):
        times = struct.pack('qqqq', a[0], a[1], m[0], m[1])
        return c(libc.utimensat(-100, os.fsencode(where), times, flags))
    put(path), os.utime(path, ns=(5, 6))
    out += [changed(path, utimens, (0, OMIT), (9, 9)), os.stat(path).st_atime_ns, changed(path, utimens, (7, 7), (0, OMIT)), os.stat(path).st_mtime_ns, changed(path, utimens, (0, OMIT), (0, OMIT))]
    t = time.time_ns()
    out += [e(utimens, (0, NOW), (0, NOW)), abs(os.stat(path).st_atime_ns - t) < 30e9, abs(os.stat(path).st_mtime_ns - t) < 30e9, e(utimens, (0, 1 << 31), (0, 0)), e(utimens, (0, NOW), (3, 4)), os.stat(path).st_mtime_ns]
    os.chmod(path, 0o666), os.chmod(d, 0o777)
    out += [as_user(ALICE, utimens, (0, NOW), (0, NOW)), as_user(ALICE, utimens, (1, 1), (1, 1)), as_user(ALICE, utimens, (0, OMIT), (0, OMIT)), as_user(ALICE, utimens, (0, NOW), (0, OMIT))]
    os.chmod(path, 0o644)
    return out + [as_user(ALICE, utimens, (0, NOW), (0, NOW)), os.stat(path).st_ctime_ns > os.stat(path).st_mtime_ns - 1]


@probe
def which_calls_move_times(d):
    path = put(f'{d}/f', b'x' * 100)
    fd = rw(path)
    return [('write', changed(path, os.pwrite, fd, b'x', 0)), ('write nothing', changed(path, os.pwrite, fd, b'', 0)), ('chmod', changed(path, os.chmod, path, 0o600)), ('chown', changed(path, os.chown, path, 5, 5)),
            ('chown -1', changed(path, os.chown, path, -1, -1)), ('chmod same', changed(path, os.chmod, path, 0o600)), ('setxattr', changed(path, os.setxattr, path, 'user.a', b'1')), ('removexattr', changed(path, os.removexattr, path, 'user.a')),
            ('getxattr', changed(path, os.listxattr, path)), ('fsync', changed(path, os.fsync, fd)), ('open', changed(path, lambda: os.close(os.open(path, os.O_RDONLY)))), ('ftruncate', changed(path, os.ftruncate, fd, 50)),
            ('refused', changed(path, os.rename, path, f'{d}/none/x')), os.close(fd)]


@probe
def reads_move_the_access_time(d):
    path = put(f'{d}/f', b'x' * 100)
    os.utime(path, ns=(1, 2))
    return changed(path, get, path)


@probe
def truncate_to_the_same_size_moves_times(d):
    path = put(f'{d}/f', b'x' * 10)
    fd = rw(path)
    return changed(path, os.truncate, path, 10), changed(path, os.ftruncate, fd, 10), os.close(fd)


@probe
def sizes_of_directories_and_links(d):
    os.mkdir(f'{d}/x')
    os.symlink('target', f'{d}/s')
    return os.stat(f'{d}/x').st_size > 0, os.stat(f'{d}/x').st_blocks > 0, os.lstat(f'{d}/s').st_size


@probe
def extended_attributes(d):
    path = put(f'{d}/f')
    big = b'v' * 3000
    out = [e(os.getxattr, path, 'user.a'), e(os.setxattr, path, 'user.a', b'1', os.XATTR_REPLACE), e(os.setxattr, path, 'user.a', b'1', os.XATTR_CREATE), e(os.setxattr, path, 'user.a', b'2', os.XATTR_CREATE),
           e(os.setxattr, path, 'user.a', b'3', os.XATTR_REPLACE), os.getxattr(path, 'user.a'), e(os.setxattr, path, 'user.empty', b''), os.getxattr(path, 'user.empty'), e(os.setxattr, path, 'user.big', big), os.getxattr(path, 'user.big') == big]
    out += [e(os.setxattr, path, 'user.' + 'n' * 250, b'1'), e(os.setxattr, path, 'user.' + 'n' * 251, b'1'), e(os.setxattr, path, 'user.', b'1'), e(os.setxattr, path, 'none.a', b'1'), e(os.setxattr, path, 'plain', b'1'), e(os.setxattr, path, '', b'1')]
    out += [e(os.setxattr, path, 'trusted.t', b'1'), e(os.setxattr, path, 'security.s', b'1'), sorted(os.listxattr(path))[:3], e(os.removexattr, path, 'user.none'), e(os.removexattr, path, 'user.a'), e(os.getxattr, path, 'user.a')]
    out += [e(os.setxattr, path, 'user.toobig', b'x' * 65537), e(os.setxattr, path, 'user.a', b'\x00\xff', 3), e(os.setxattr, d, 'user.on.dir', b'1'), e(os.getxattr, d, 'user.on.dir'), e(os.removexattr, d, 'user.on.dir')]
    os.mkfifo(f'{d}/p'), os.mknod(f'{d}/dev', stat.S_IFCHR | 0o666, os.makedev(1, 3))
    out += [e(os.setxattr, f'{d}/p', 'user.a', b'1'), e(os.setxattr, f'{d}/dev', 'trusted.a', b'1'), e(os.getxattr, f'{d}/dev', 'trusted.a')]
    os.chmod(path, 0o644), os.chmod(d, 0o755)
    out += [as_user(ALICE, lambda: sorted(os.listxattr(path))[:3]), as_user(ALICE, os.getxattr, path, 'trusted.t'), as_user(ALICE, os.setxattr, path, 'user.z', b'1'), as_user(ALICE, os.setxattr, path, 'trusted.z', b'1'), as_user(ALICE, os.setxattr, path, 'security.z', b'1'), as_user(ALICE, os.removexattr, path, 'security.s'), as_user(ALICE, os.getxattr, path, 'security.s')]
    os.chmod(path, 0o600)
    out += [as_user(ALICE, os.getxattr, path, 'user.big'), as_user(ALICE, lambda: len(os.listxattr(path)))]
    size = libc.getxattr(os.fsencode(path), b'user.big', None, 0)
    short = ctypes.create_string_buffer(10)
    out += [size, e(lambda: c(libc.getxattr(os.fsencode(path), b'user.big', short, 10))), e(lambda: c(libc.listxattr(os.fsencode(path), short, 3)))]
    os.mkdir(f'{d}/sticky'), os.chmod(f'{d}/sticky', 0o1777)
    return out + [as_user(ALICE, os.setxattr, f'{d}/sticky', 'user.a', b'1')]


@probe
def large_attribute_values(d):
    path = put(f'{d}/f')
    return e(os.setxattr, path, 'user.large', b'x' * 65536), e(lambda: len(os.getxattr(path, 'user.large')))


@probe
def access_control_lists(d):
    path = put(f'{d}/f', mode=0o640)
    acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', t, p, i) for t, p, i in [(1, 6, 0xffffffff), (2, 4, 1234), (4, 4, 0xffffffff), (0x10, 4, 0xffffffff), (0x20, 0, 0xffffffff)])
    return e(os.setxattr, path, 'system.posix_acl_access', acl), as_user(ALICE, get, path)
