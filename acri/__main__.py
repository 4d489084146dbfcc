# SPDX-License-Identifier: Apache-2.0
"""`python -m acri` is `acri`."""

import sys

from acri.cli import main

sys.exit(main())
