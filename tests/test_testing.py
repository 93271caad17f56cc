"""The conformance kit: what ships passes it, and each of its checks fails on a plugin that breaks it."""
import archloom.testing as kit
print(kit)
