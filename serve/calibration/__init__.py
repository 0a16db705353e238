"""How a cascade's thresholds are found and certified from labelled data: pure functions over numpy arrays."""
