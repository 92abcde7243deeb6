"""For all tests."""

import signal

# A shell starts background jobs with SIGINT ignored, and what is executed inherits that: processes that tests interrupt
# would never end. A handler of Python's own is reset to the system's default in what pytest starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
