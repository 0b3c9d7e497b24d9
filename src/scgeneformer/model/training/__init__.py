"""One run of training: options, plan, callbacks, history."""
