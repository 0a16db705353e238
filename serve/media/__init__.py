"""From what a client sent to pixels, safely.

`source` turns request text (data URI, base64) into bytes, `fetch` turns a URL into bytes, `headers` and `image` turn
bytes into a checked description (at the edge) and into an RGB image (in a replica's pool). Every failure is an
`ArgusError`; the caller names the field with `.at("image")`.
"""
