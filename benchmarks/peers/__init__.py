"""The servers that Argus is measured beside, one small script each, all around the same `encoder.Encoder`."""
