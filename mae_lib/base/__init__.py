"""What every wing stands on: the error that means bad input, files that are whole or not there,
records of runs with their origin, intervals over seeds and images, the names of the sweep's runs,
and what a source of images is.
"""
