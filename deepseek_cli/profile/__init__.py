"""Where the memory and the time of a model go: measured in a fresh process, shown in one offline page."""
