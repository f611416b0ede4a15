"""An HTTP server with OpenAI's interface; `xplm.serve.app.make_app` makes it."""
