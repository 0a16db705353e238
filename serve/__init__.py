"""The online path of Argus: cluster file, router, protocol skins."""
