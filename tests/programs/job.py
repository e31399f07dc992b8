"""What the jobs on real input have in common: a Git repository whose commits are checked out in a mount of a project `p`."""

import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IZE = os.path.abspath(os.environ.get("IZE", f"{ROOT}/target/debug/ize"))

failed = []


def check(right, what):
    print(f"{'ok  ' if right else 'FAIL'}  {what}", flush=True)
    if not right:
        failed.append(what)


def run(args, cwd=None, env=None, may_fail=False):
    done = subprocess.run(args, cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode and not may_fail:
        sys.exit(f"{args}: code {done.returncode}\n{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}")
    return done


class Job:
    def __init__(self, repo, count, place):
        self.repo, self.place = os.path.abspath(repo), place
        self.mount = f"{place}/mnt"
        self.home = {"HOME": place, "XDG_CONFIG_HOME": place, "IZE_CENTRAL_DIR": f"{place}/store", "NO_COLOR": "1", "GIT_INDEX_FILE": f"{place}/index"}
        self.commits = self.git("rev-list", "--first-parent", f"--max-count={count}", "--reverse", "HEAD").decode().split()
        self.project = None

    def git(self, *args, may_fail=False):
        # What the user's own configuration says of line ends and filters is not asked.
        base = ["git", "-c", "safe.directory=*", "-c", "core.autocrlf=false", "-c", "core.symlinks=true", f"--git-dir={self.repo}"]
        return run([*base, *args], env={**self.home, "GIT_CONFIG_NOSYSTEM": "1"}, may_fail=may_fail).stdout

    def ize(self, *args, may_fail=False):
        return run([IZE, *args], env=self.home, may_fail=may_fail)

    def mount_it(self):
        self.ize("mount", "p", self.mount, "--create")
        self.project = os.path.join(self.place, "store/projects", os.listdir(f"{self.place}/store/projects")[0])

    def check_out(self, commit):
        self.git(f"--work-tree={self.mount}", "read-tree", "--reset", "-u", commit)

    def tree(self, top):
        out = {}
        for here, dirs, files in os.walk(top):
            for name in dirs + files:
                path = os.path.join(here, name)
                inside = os.path.relpath(path, top)
                stat = os.lstat(path)
                if os.path.islink(path):
                    out[inside] = (stat.st_mode, os.readlink(path))
                elif os.path.isdir(path):
                    out[inside] = (stat.st_mode, None)
                else:
                    with open(path, "rb") as file:
                        out[inside] = (stat.st_mode, file.read())
        return out


def go(doc, kind, count, work, projects):
    """The words are `REPO.git [N]`. What is mounted is unmounted, whatever happens; fails when a check did."""
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(doc)
    place = tempfile.mkdtemp(prefix="ize-job-")
    job = kind(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else count, place)
    try:
        work(job)
    finally:
        for name in projects:
            run([IZE, "unmount", name], env=job.home, may_fail=True)
        if "KEEP" in os.environ:
            print(f"everything is in {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)
    sys.exit(1 if failed else 0)
