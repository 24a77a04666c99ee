"""What surrounds the pipeline: images, manifests, dashboards, benchmarks, a local S3 server. Not installed."""
