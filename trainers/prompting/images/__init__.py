"""Images and their labels: files, folders of classes, and tables."""
