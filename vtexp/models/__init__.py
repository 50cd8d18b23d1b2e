"""Model code and checkpoint loading. torch is imported only when needed."""
