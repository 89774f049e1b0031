"""Storage: files, their atomic writes and locks, records, and files of features."""
