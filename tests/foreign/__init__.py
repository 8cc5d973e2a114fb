"""Other people's suites, run without us and with us: no test may change its outcome."""
