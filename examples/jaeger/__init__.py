"""Jaeger: a real one to send traces to, an app that tells a story, and a picture of it."""
