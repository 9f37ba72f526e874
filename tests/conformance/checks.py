"""What every client script prints: a line a check. Imported by scripts that run in other environments: stdlib only."""

import time
import traceback


class Checks:
    def __init__(self):
        self.values = {}

    def __call__(self, name):
        """Run the decorated function at once; later checks see what it returned under its name."""

        def run(function):
            try:
                self.values[function.__name__] = function()
            except Exception as error:
                traceback.print_exc()
                print(f"FAILED {name}: {type(error).__name__}: {error}".replace("\n", " "), flush=True)
            else:
                print(f"ok {name}", flush=True)
            return function

        return run

    def __getattr__(self, name):
        return self.values[name]


def until(find, accept, seconds=120):
    end = time.time() + seconds
    while time.time() < end:
        found = find()
        if accept(found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"still {found!r}")
