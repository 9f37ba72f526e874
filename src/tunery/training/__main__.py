"""python -m tunery.training ORDER.json"""

import sys

from tunery.training.process import main

sys.exit(main(sys.argv[1:]))
