"""Client programs that tests start as processes of their own; libcurl's is demo.curl."""
