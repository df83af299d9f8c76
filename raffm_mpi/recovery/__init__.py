"""What lies on the disk of a run, when it is written, and where a run goes on."""
