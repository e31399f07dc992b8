"""What system calls do in a directory: `python3 tests/conformance/probes DIR [NAME...]` prints one line a probe, `name: result`.

Run on a mount and on the disk beneath it, the lines must be equal, but for those that docs/semantics.md explains (tests/posix.rs compares).
Needs root: some probes act as other users. Results hold no times, sizes or numbers that two file systems may choose for themselves.
"""
import os, shutil, sys, time

# Nothing is left beside the sources.
sys.dont_write_bytecode = True

import names, data, attributes, privileges, directories  # noqa: E402, F401: each adds its probes, in this order
from kit import PROBES  # noqa: E402


def main():
    base, wanted = os.path.abspath(sys.argv[1]), sys.argv[2:]
    os.umask(0o022)
    for f in PROBES:
        name = f.__name__
        if wanted and name not in wanted:
            continue
        d = f'{base}/{name}'
        os.mkdir(d)
        begun = time.time()
        try:
            said = repr(f(d))
        except Exception as error:
            line = error.__traceback__.tb_next.tb_lineno if error.__traceback__.tb_next else 0
            said = f'{type(error).__name__} {error} in line {line}'
        print(f'{name}: {said}'.replace(base, 'DIR'), flush=True)
        if os.environ.get('PROBE_TIMES'):
            print(f'{name} {time.time() - begun:.2f} s', file=sys.stderr)
        shutil.rmtree(d, ignore_errors=True)


if __name__ == '__main__':
    main()
