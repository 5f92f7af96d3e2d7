"""§2.3 and after: what can be recovered from data. Processes that meet Assumption 1, the experiment
on Theorem 2, excess loss as leak and misfit, latent trees and linear context estimated from
images."""
