"""`python -m invgen.priors.cards`."""

import sys

from invgen.priors.cards.write import main

sys.exit(main())
