"""Probes: names, links, paths."""
from kit import *  # noqa: F403: every probe uses a part of it


@probe
def mknod_kinds(d):
    out = []
    for what, kind in [('reg', stat.S_IFREG), ('fifo', stat.S_IFIFO), ('sock', stat.S_IFSOCK), ('chr', stat.S_IFCHR), ('blk', stat.S_IFBLK), ('dir', stat.S_IFDIR)]:
        path = f'{d}/{what}'
        said = e(os.mknod, path, kind | 0o640, os.makedev(300, 70000) if what in ('chr', 'blk') else 0)
        s = os.lstat(path) if os.path.lexists(path) else None
        out.append((what, said, s and (oct(s.st_mode), s.st_rdev, s.st_nlink, s.st_size)))
    return out


@probe
def device_nodes_work(d):
    os.mknod(f'{d}/null', stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(f'{d}/fifo')
    r = os.open(f'{d}/fifo', os.O_RDONLY | os.O_NONBLOCK)
    w = os.open(f'{d}/fifo', os.O_WRONLY)
    os.write(w, b'through')
    return e(ok, put, f'{d}/null', b'x', 0o666), e(get, f'{d}/null'), os.read(r, 9), os.close(r), os.close(w)


@probe
def unix_sockets_connect(d):
    import socket
    a, b = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    a.bind(f'{d}/s')
    a.listen()
    b.connect(f'{d}/s')
    return stat.S_ISSOCK(os.stat(f'{d}/s').st_mode), e(os.open, f'{d}/s', os.O_RDONLY)


@probe
def rename_flags(d):
    put(f'{d}/a', b'a'), put(f'{d}/b', b'b')
    os.makedirs(f'{d}/d1/sub'), os.makedirs(f'{d}/d2')
    out = [e(renameat2, f'{d}/a', f'{d}/b', NOREPLACE), e(renameat2, f'{d}/a', f'{d}/c', NOREPLACE)]
    out += [e(renameat2, f'{d}/c', f'{d}/b', EXCHANGE), get(f'{d}/c'), get(f'{d}/b')]
    out += [e(renameat2, f'{d}/c', f'{d}/none', EXCHANGE), e(renameat2, f'{d}/none', f'{d}/c', EXCHANGE)]
    out += [e(renameat2, f'{d}/c', f'{d}/b', EXCHANGE | NOREPLACE), e(renameat2, f'{d}/c', f'{d}/b', 64)]
    # A directory against a file in another directory: the parents' link counts follow.
    out += [e(renameat2, f'{d}/d1/sub', f'{d}/c', EXCHANGE), links(f'{d}/d1'), links(d), os.path.isdir(f'{d}/c')]
    put(f'{d}/d2/f')
    out += [e(renameat2, f'{d}/c', f'{d}/d2/f', EXCHANGE), links(d), links(f'{d}/d2')]
    out += [e(renameat2, f'{d}/d2', f'{d}/d2/f', EXCHANGE), e(renameat2, f'{d}/d2/f', f'{d}/d2', EXCHANGE)]
    out += [e(renameat2, f'{d}/d1', f'{d}/d2', EXCHANGE), links(d), sorted(os.listdir(f'{d}/d1')), sorted(os.listdir(f'{d}/d2'))]
    return out


@probe
def rename_refusals(d):
    os.makedirs(f'{d}/full/x'), os.makedirs(f'{d}/empty'), put(f'{d}/f'), put(f'{d}/g')
    os.link(f'{d}/f', f'{d}/h'), os.symlink('f', f'{d}/s')
    r = lambda a, b: e(ok, os.rename, f'{d}/{a}', f'{d}/{b}')
    out = [r('f', 'full'), r('full', 'f'), r('empty', 'full'), r('full', 'full/x/y'), r('full', 'full'), r('f', 'h'), r('f', 'f'), r('s', 'g')]
    out += [sorted(os.listdir(d)), r('full', 'empty'), sorted(os.listdir(d)), links(d), r('f', ''), r('f/', 'k'), r('empty/', 'dir/'), r('f', 'k/')]
    out += [r('h', 'missing/k'), r('dir/.', 'q'), r('dir', 'f/q'), e(ok, os.rename, f'{d}/f', f'{d}/dir/..')]
    return out


@probe
def times_of_names(d):
    """Which times a change of names moves: of the inode, of the directory, of the other directory."""
    os.mkdir(f'{d}/p'), os.mkdir(f'{d}/q'), put(f'{d}/p/f'), put(f'{d}/q/old')
    p, q, f = f'{d}/p', f'{d}/q', f'{d}/p/f'
    out = [('create', changed(p, lambda: put(f'{p}/g'))), ('link dir', changed(p, os.link, f, f'{p}/l')), ('link inode', changed(f, os.link, f, f'{p}/l2'))]
    out += [('unlink inode', changed(f, os.unlink, f'{p}/l')), ('unlink dir', changed(p, os.unlink, f'{p}/l2'))]
    out += [('mkdir', changed(p, os.mkdir, f'{p}/d')), ('rename from', changed(p, os.rename, f'{p}/g', f'{q}/g')), ('rename to', changed(q, os.rename, f'{q}/g', f'{p}/g'))]
    fd = os.open(f, os.O_RDONLY)
    before = os.fstat(fd)
    time.sleep(0.012)
    os.rename(f, f'{p}/f2')
    after = os.fstat(fd)
    out += [('renamed', after.st_ctime_ns != before.st_ctime_ns, after.st_mtime_ns == before.st_mtime_ns), ('rmdir', changed(p, os.rmdir, f'{p}/d'))]
    out += [('exchange', changed(f'{p}/g', lambda: renameat2(f'{p}/g', f'{p}/f2', EXCHANGE)))]
    os.close(fd)
    return out


@probe
def link_counts(d):
    put(f'{d}/f')
    for i in range(5):
        os.link(f'{d}/f', f'{d}/l{i}')
    os.makedirs(f'{d}/a/b/c')
    out = [links(f'{d}/f'), links(f'{d}/a'), links(f'{d}/a/b'), links(f'{d}/a/b/c'), links(d)]
    os.rename(f'{d}/a/b', f'{d}/b')
    os.symlink('f', f'{d}/s')
    os.link(f'{d}/s', f'{d}/s2', follow_symlinks=False)
    out += [links(f'{d}/a'), links(f'{d}/b'), links(d), links(f'{d}/s'), os.path.islink(f'{d}/s2')]
    fd = os.open(f'{d}/b/c', os.O_RDONLY)
    os.rmdir(f'{d}/b/c')
    out += [os.fstat(fd).st_nlink, links(f'{d}/b'), e(os.mkdir, 'x', dir_fd=fd), e(os.listdir, fd), e(os.open, 'y', os.O_CREAT | os.O_WRONLY, dir_fd=fd)]
    os.close(fd)
    return out + [e(os.link, f'{d}/a', f'{d}/dl'), e(os.link, f'{d}/none', f'{d}/dl'), e(os.link, f'{d}/f', f'{d}/l1')]


@probe
def names_of_any_bytes(d):
    d = os.fsencode(d)
    names = [bytes([b]) for b in range(1, 256) if b not in b'/.'] + [b'...', b' ', b'a' * 255, b'\xff' * 255, 'é'.encode() * 127, b'-rf', b'.hidden']
    for name in names:
        put(d + b'/' + name)
    return sorted(os.listdir(d)) == sorted(set(names)), [e(put, d + b'/' + n) for n in (b'a' * 256, b'\xc3' * 256)], e(os.mkdir, d + b'/' + b'b' * 256), e(os.symlink, b'x', d + b'/' + b'b' * 256)


@probe
def special_names(d):
    os.mkdir(f'{d}/x')
    return [e(os.rmdir, f'{d}/x/.'), e(os.rmdir, f'{d}/x/..'), e(os.unlink, f'{d}/x'), e(os.rmdir, f'{d}/none'), e(os.mkdir, f'{d}/x/'), e(os.mkdir, f'{d}/y/'),
            e(ok, os.open, f'{d}/new/', os.O_CREAT | os.O_WRONLY), e(os.unlink, f'{d}/x/none'), e(os.mkdir, f'{d}/x/..'), e(os.open, d, os.O_WRONLY), e(os.open, f'{d}/x', os.O_CREAT)]


@probe
def long_paths(d):
    """Paths up to PATH_MAX in one call, deeper ones by steps."""
    at = os.open(d, os.O_RDONLY)
    room = 4095 - len(os.fsencode(d))
    path = d
    while room > 101:
        path += '/' + 'p' * 100
        room -= 101
        os.mkdir(path)
    path += '/' + 'q' * (room - 1)
    out = [len(os.fsencode(path)), e(lambda: len(put(path))), e(os.stat, path + 'x'), os.path.exists(path)]
    for _ in range(60):
        os.mkdir('deep' * 30, dir_fd=at)
        below = os.open('deep' * 30, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open('bottom', os.O_CREAT | os.O_WRONLY, dir_fd=at))
    out.append(os.listdir(at))
    os.close(at)
    return out + [e(ok, shutil.rmtree, f'{d}/' + 'p' * 100)]


@probe
def symbolic_links(d):
    os.symlink('loop', f'{d}/loop'), os.symlink('b', f'{d}/a'), os.symlink('a', f'{d}/b'), os.symlink('.', f'{d}/here')
    target = 'x/' * 2047 + 'x'
    os.symlink(target, f'{d}/long')
    s = os.lstat(f'{d}/long')
    put(f'{d}/f', b'text'), os.symlink('f', f'{d}/s')
    out = [e(os.stat, f'{d}/loop'), e(os.open, f'{d}/a', os.O_RDONLY), e(os.open, f'{d}/loop', os.O_CREAT | os.O_WRONLY), os.readlink(f'{d}/long') == target, s.st_size, oct(s.st_mode)]
    out += [e(os.symlink, 'y' * 4096, f'{d}/toolong'), e(os.symlink, '', f'{d}/empty'), e(os.readlink, f'{d}/f'), e(os.readlink, d)]
    out += [get(f'{d}/here/here/here/s'), e(os.stat, f'{d}' + '/here' * 41), e(ok, os.stat, f'{d}' + '/here' * 39), e(os.open, f'{d}/s', os.O_RDONLY | os.O_NOFOLLOW)]
    out += [e(os.open, f'{d}/s', os.O_CREAT | os.O_EXCL | os.O_WRONLY), changed(f'{d}/s', lambda: os.utime(f'{d}/s', ns=(5, 6), follow_symlinks=False)), os.lstat(f'{d}/s').st_mtime_ns]
    os.chown(f'{d}/s', 5, 6, follow_symlinks=False)
    return out + [(os.lstat(f'{d}/s').st_uid, os.stat(f'{d}/s').st_uid), e(os.setxattr, f'{d}/s', 'user.a', b'1', follow_symlinks=False), e(ok, os.setxattr, f'{d}/s', 'trusted.a', b'1', follow_symlinks=False), os.listxattr(f'{d}/s', follow_symlinks=False)]
