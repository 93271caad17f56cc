// BatchNorm's arithmetic per channel, in double, shared by host and device.
#pragma once

#include <cmath>

#include "types.h"

namespace archloom {

// Coefficients per channel. M values were normalized, `dot` = sum dz (x - mean), `total` = sum dz, and the
// gradient that reaches the normalization is w dz.
struct NormGrad {
  double A, B, D, dgamma, dbeta, dweight;
};

ARCHLOOM_HD NormGrad norm_grad_coefficients(
    double weight, double gamma, double beta, double var, double eps, double M, double total, double dot) {
  const double rstd = 1.0 / sqrt(var + eps);
  NormGrad c;
  c.A = weight * gamma * rstd;
  c.B = -c.A * rstd * rstd * dot / M;
  c.D = -c.A * total / M;
  c.dgamma = weight * rstd * dot;
  c.dbeta = weight * total;
  c.dweight = gamma * rstd * dot + beta * total;  // the sums that the two lines above need anyway
  return c;
}

// Mean and centred second moment of two sets joined (Chan, Golub and LeVeque 1979).
ARCHLOOM_HD void join_moments(double& n, double& mean, double& m2, double n_b, double mean_b, double m2_b) {
  const double both = n + n_b;
  if (both == 0) return;
  const double delta = mean_b - mean;
  mean += delta * (n_b / both);
  m2 += m2_b + delta * delta * (n * n_b / both);
  n = both;
}

}  // namespace archloom
