"""Load generators, peers and measurements. The online path imports nothing from here."""
