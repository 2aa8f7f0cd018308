"""What ill-treats the command and judges it: the parts of acceptance tests that are no tests."""
