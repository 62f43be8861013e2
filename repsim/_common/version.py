"""The version, in one place: the build, the command line and every result read it here."""

VERSION = "0.2.0"
