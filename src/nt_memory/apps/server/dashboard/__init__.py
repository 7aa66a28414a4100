"""The live page at `/`: files that are built from `web/` and shipped as they are."""
