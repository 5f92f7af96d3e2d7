"""From a frozen encoder and data to measures: reconstruction (§3.1), attention (§3.2),
separability, probes and robustness (§3.3), shape bias (§3.4), latents read out (§3.6). Nothing is
drawn or written here."""
