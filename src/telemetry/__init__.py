"""Home energy telemetry: readings in, identity and place out, minimised time series kept and shared by grant."""
