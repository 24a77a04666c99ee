"""An S3 server on loopback, for tests and for trying `t1` against an object store."""
