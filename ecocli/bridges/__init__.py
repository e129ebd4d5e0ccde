"""Other programs' interfaces around eco's models; each module needs the program it is named after."""
