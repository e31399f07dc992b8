"""Probes: who may do what, and what takes privileges away."""
from kit import *  # noqa: F403: every probe uses a part of it


CAP = struct.pack('<IIIII', 0x02000001, 1 << 10, 0, 0, 0)


@probe
def capabilities_go_with_the_content(d):
    path, out = f'{d}/f', []
    put(f'{d}/g', b'source')
    def with_caps(name, f):
        put(path, b'program', 0o777)
        os.setxattr(path, 'security.capability', CAP)
        fd = rw(path)
        f(fd)
        os.close(fd)
        out.append((name, e(lambda: len(os.getxattr(path, 'security.capability')))))
    os.chmod(d, 0o777)
    with_caps('read', lambda fd: os.read(fd, 3))
    with_caps('write', lambda fd: os.write(fd, b'x'))
    with_caps('user write', lambda fd: as_user(ALICE, lambda: os.write(rw(path), b'x')))
    with_caps('truncate', lambda fd: os.truncate(path, 3))
    with_caps('O_TRUNC', lambda fd: os.close(rw(path, os.O_TRUNC)))
    with_caps('chown', lambda fd: os.chown(path, 5, 5))
    with_caps('chown -1', lambda fd: os.chown(path, -1, -1))
    with_caps('chmod', lambda fd: os.chmod(path, 0o700))
    with_caps('fallocate', lambda fd: fallocate(fd, 0, 0, 100))
    with_caps('punch', lambda fd: fallocate(fd, PUNCH | KEEP, 0, 3))
    with_caps('copy', lambda fd: os.copy_file_range(os.open(f'{d}/g', os.O_RDONLY), fd, 3, 0, 0))
    with_caps('rename', lambda fd: os.rename(path, f'{d}/h') or os.rename(f'{d}/h', path))
    with_caps('utime', lambda fd: os.utime(path))
    with_caps('link', lambda fd: os.link(path, f'{d}/l'))
    return out


@probe
def setuid_goes_with_the_content(d):
    path, out = f'{d}/f', []
    os.chmod(d, 0o777)
    put(f'{d}/g', b'source')
    def bits(name, f, start=0o6777, owner=(0, 0)):
        put(path, b'program')
        os.chown(path, *owner), os.chmod(path, start)
        result = e(f)
        out.append((name, oct(start), mode(path), result if isinstance(result, str) else None))
    user = lambda f: lambda: as_user(ALICE, f)
    for start in (0o6777, 0o2767, 0o4755 | 0o022, 0o2777):
        bits('write', user(lambda: os.write(rw(path), b'x') and 'ok'), start)
        bits('truncate', user(lambda: ok(os.truncate, path, 3)), start)
        bits('O_TRUNC', user(lambda: ok(lambda: os.close(rw(path, os.O_TRUNC)))), start)
        bits('chown by root', lambda: os.chown(path, 7, 7), start)
        bits('chown -1 by root', lambda: os.chown(path, -1, -1), start)
    bits('root writes', lambda: os.write(rw(path), b'x'))
    bits('root truncates', lambda: os.truncate(path, 2))
    bits('root O_TRUNC', lambda: os.close(rw(path, os.O_TRUNC)))
    bits('fallocate', user(lambda: fallocate(rw(path), 0, 0, 100)))
    bits('punch', user(lambda: fallocate(rw(path), PUNCH | KEEP, 0, 3)))
    bits('copy', user(lambda: ok(os.copy_file_range, os.open(f'{d}/g', os.O_RDONLY), rw(path), 3, 0, 0)))
    bits('mapping', user(lambda: ok(lambda: mmap.mmap(rw(path), 7).__setitem__(0, 66))))
    bits('write nothing', user(lambda: ok(os.write, rw(path), b'')))
    bits('chmod by owner', lambda: as_user(ALICE, lambda: ok(os.chmod, path, 0o6711)), owner=ALICE)
    bits('chmod by owner outside the group', lambda: as_user(ALICE, lambda: ok(os.chmod, path, 0o6711)), owner=(1234, 77))
    bits('chmod by owner in the group', lambda: as_user(ALICE, lambda: ok(os.chmod, path, 0o6711), groups=[77]), owner=(1234, 77))
    bits('chown by owner', lambda: as_user(ALICE, lambda: ok(os.chown, path, -1, 77), groups=[77]), owner=ALICE)
    bits('chown by owner to a foreign group', lambda: as_user(ALICE, lambda: ok(os.chown, path, -1, 78), groups=[77]), owner=ALICE)
    bits('chown by owner to another owner', lambda: as_user(ALICE, lambda: ok(os.chown, path, 1235, -1)), owner=ALICE)
    os.mkdir(f'{d}/x'), os.chmod(f'{d}/x', 0o6777), os.chown(f'{d}/x', 7, 7)
    for what in (stat.S_IFIFO, stat.S_IFSOCK):
        for bits in (0o6711, 0o2701):
            os.mknod(f'{d}/n', what), os.chmod(f'{d}/n', bits), os.chown(f'{d}/n', -1, -1)
            out.append((oct(what), oct(bits), mode(f'{d}/n')))
            os.unlink(f'{d}/n')
    return out, mode(f'{d}/x')


@probe
def setgid_directories(d):
    os.chmod(d, 0o777)
    os.mkdir(f'{d}/g'), os.chown(f'{d}/g', 0, 77), os.chmod(f'{d}/g', 0o2777)
    make = lambda: (os.mkdir(f'{d}/g/d'), put(f'{d}/g/f'), os.symlink('x', f'{d}/g/s'), os.mkfifo(f'{d}/g/p'), os.close(os.open(f'{d}/g/sgid', os.O_CREAT | os.O_WRONLY, 0o2775)), os.mkdir(f'{d}/g/m', 0o2775), os.mknod(f'{d}/g/n', stat.S_IFREG | 0o2755)) and 'ok'
    out = [as_user(ALICE, make)]
    out += [(n, os.lstat(f'{d}/g/{n}').st_gid, mode(f'{d}/g/{n}')) for n in sorted(os.listdir(f'{d}/g'))]
    os.mkdir(f'{d}/plain'), os.chmod(f'{d}/plain', 0o777)
    out += [as_user(ALICE, lambda: (put(f'{d}/plain/f'), os.mkdir(f'{d}/plain/d')) and 'ok', groups=[77]), os.stat(f'{d}/plain/f').st_gid, mode(f'{d}/plain/d')]
    shutil.move(f'{d}/plain/d', f'{d}/g/moved')
    return out + [os.stat(f'{d}/g/moved').st_gid, mode(f'{d}/g/moved')]


@probe
def sticky_directories(d):
    os.chmod(d, 0o1777)
    as_user(ALICE, lambda: (put(f'{d}/a', b'a'), os.mkdir(f'{d}/ad')) and 'ok')
    as_user(BOB, lambda: put(f'{d}/b', b'b'))
    os.chmod(f'{d}/a', 0o666)
    out = [as_user(BOB, lambda: ok(f, *args)) for f, args in [(os.unlink, (f'{d}/a',)), (os.rename, (f'{d}/a', f'{d}/c')), (os.rename, (f'{d}/b', f'{d}/a')), (os.rmdir, (f'{d}/ad',)), (os.rename, (f'{d}/b', f'{d}/b2')), (os.unlink, (f'{d}/b2',))]]
    out += [as_user(BOB, renameat2, f'{d}/a', f'{d}/b', EXCHANGE), as_user(BOB, lambda: os.write(rw(f'{d}/a'), b'x'))]
    os.chown(d, 1235, 1235)
    return out + [as_user(BOB, lambda: ok(os.unlink, f'{d}/a'))]


@probe
def supplementary_groups(d):
    os.chmod(d, 0o755)
    put(f'{d}/f', b'for the group', 0o640), os.chown(f'{d}/f', 0, 77)
    os.mkdir(f'{d}/x'), os.chown(f'{d}/x', 0, 77), os.chmod(f'{d}/x', 0o770)
    return [as_user(ALICE, get, f'{d}/f', groups=g) for g in ([], [77], [5, 6, 77])], [as_user(ALICE, lambda: len(put(f'{d}/x/f')) > 0, groups=g) for g in ([], [77])], [as_user(ALICE, os.access, f'{d}/f', os.R_OK, groups=g) for g in ([], [77])]


@probe
def a_second_user_with_warm_caches(d):
    """Everything is looked at by root first, so that the kernel has names, attributes and pages; then another user comes."""
    os.chmod(d, 0o755)
    os.mkdir(f'{d}/private'), os.chmod(f'{d}/private', 0o755)
    put(f'{d}/private/open', b'data', 0o644), put(f'{d}/closed', b'data', 0o600), put(f'{d}/f', b'data', 0o644)
    os.symlink('closed', f'{d}/link')
    for path in (f'{d}/private/open', f'{d}/closed', f'{d}/f'):
        get(path), os.stat(path), os.listdir(os.path.dirname(path))
    out = [as_user(ALICE, get, f'{d}/private/open')]
    os.chmod(f'{d}/private', 0o700)
    out += [as_user(ALICE, f, f'{d}/private/open') for f in (get, os.stat, os.unlink, os.readlink, lambda p: os.chmod(p, 0o777), lambda p: os.rename(p, f'{d}/x'), lambda p: os.link(p, f'{d}/x'))]
    out += [as_user(ALICE, os.listdir, f'{d}/private'), as_user(ALICE, os.stat, f'{d}/private/missing'), as_user(ALICE, put, f'{d}/private/new'), as_user(ALICE, os.chdir, f'{d}/private')]
    out += [as_user(ALICE, f, f'{d}/closed') for f in (get, put, lambda p: os.truncate(p, 0), lambda p: os.utime(p), lambda p: os.chmod(p, 0o666), lambda p: os.chown(p, 1234, 1234), lambda p: os.setxattr(p, 'user.a', b'1'), lambda p: os.access(p, os.R_OK), lambda p: oct(os.stat(p).st_mode))]
    out += [as_user(ALICE, get, f'{d}/link')]
    # Opened while it was allowed: the descriptor goes on, a new open does not.
    r1, w1 = os.pipe()
    r2, w2 = os.pipe()
    os.chmod(f'{d}/f', 0o666)
    if os.fork() == 0:
        os.setgroups([]), os.setresgid(*[1234] * 3), os.setresuid(*[1234] * 3)
        fd = rw(f'{d}/f')
        os.write(w1, b'x'), os.read(r2, 1)
        os.write(w1, repr((os.pread(fd, 9, 0), e(os.pwrite, fd, b'D', 0), e(rw, f'{d}/f'), e(get, f'{d}/f'), e(os.ftruncate, fd, 2))).encode())
        os._exit(0)
    os.read(r1, 1)
    os.chmod(f'{d}/f', 0o600)
    os.write(w2, b'x')
    out += [os.read(r1, 200).decode(), get(f'{d}/f')]
    os.wait()
    os.chmod(f'{d}/f', 0o444), os.chown(f'{d}/f', 1234, 1234)
    out += [as_user(ALICE, rw, f'{d}/f'), as_user(ALICE, get, f'{d}/f'), as_user(ALICE, lambda: ok(os.chmod, f'{d}/f', 0o600)), as_user(BOB, get, f'{d}/f'), as_user(ALICE, get, f'{d}/f')]
    for fd in (r1, w1, r2, w2):
        os.close(fd)
    return out


@probe
def programs_run_by_their_mode(d):
    os.chmod(d, 0o755)
    put(f'{d}/script', b'#!/bin/sh\necho ran\n', 0o755), shutil.copy('/bin/true', f'{d}/true'), put(f'{d}/plain', b'#!/bin/sh\n', 0o644)
    shutil.copy('/usr/bin/id', f'{d}/id'), os.chmod(f'{d}/id', 0o4755)
    run = lambda *a: e(lambda: subprocess.run(a, capture_output=True, text=True).stdout.strip() or 'ok')
    out = [run(f'{d}/script'), run(f'{d}/true'), run(f'{d}/plain'), as_user(ALICE, run, f'{d}/id', '-u')]
    child = subprocess.Popen(['/bin/sleep', '0'])
    child.wait()
    shutil.copy('/bin/sleep', f'{d}/sleep')
    os.chmod(f'{d}/sleep', 0o755)
    child = subprocess.Popen([f'{d}/sleep', '20'])
    out += [e(os.open, f'{d}/sleep', os.O_WRONLY), e(ok, os.unlink, f'{d}/sleep')]
    child.kill()
    child.wait()
    return out


@probe
def creation_masks(d):
    os.chmod(d, 0o777)
    def make():
        os.umask(0o027)
        os.close(os.open(f'{d}/f', os.O_CREAT | os.O_WRONLY, 0o777)), os.mkdir(f'{d}/d', 0o777), os.mkfifo(f'{d}/p', 0o666), os.symlink('x', f'{d}/s')
        fd = os.open(f'{d}/ro', os.O_CREAT | os.O_WRONLY, 0o000)
        return os.write(fd, b'into a file that nobody may open')
    return [as_user(ALICE, make)] + [(n, mode(f'{d}/{n}'), os.lstat(f'{d}/{n}').st_uid, os.lstat(f'{d}/{n}').st_gid) for n in sorted(os.listdir(d))]


@probe
def what_only_root_may(d):
    os.chmod(d, 0o777)
    put(f'{d}/f', mode=0o666)
    user = lambda f, *a: as_user(ALICE, lambda: ok(f, *a))
    return [user(os.mknod, f'{d}/dev', stat.S_IFCHR | 0o666, 259), user(os.mknod, f'{d}/fifo', stat.S_IFIFO | 0o666), user(os.chown, f'{d}/f', 1234, 1234), user(os.chmod, f'{d}/f', 0o777), user(os.link, f'{d}/f', f'{d}/l'), user(os.chroot, d), user(os.setxattr, f'{d}/f', 'trusted.x', b'1'), as_user(ALICE, lambda: ok(os.mknod, f'{d}/reg', stat.S_IFREG | 0o666))]
