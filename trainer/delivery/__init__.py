"""An adapter on its way into the engines: published, checked, loaded, probed, promoted."""
