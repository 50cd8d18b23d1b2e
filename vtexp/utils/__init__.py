"""Files, the console, the machine, the hub and text: what every other package may use."""
