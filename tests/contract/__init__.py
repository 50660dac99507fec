"""What every engine must do behind its adapter, the fake one too."""
