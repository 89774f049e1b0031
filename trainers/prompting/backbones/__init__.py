"""The CLIPs that can be prompted, one file a family."""
