"""One file a method: its cfg node, its point in the space, and its loss where it has one."""
