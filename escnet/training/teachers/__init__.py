"""The models that a merged model learns from."""
